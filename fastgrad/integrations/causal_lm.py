"""The training loss of Hugging Face causal language models without their [batch, tokens, vocabulary] logits."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fastgrad.cross_entropy import CHUNK_BYTES, linear_cross_entropy
from fastgrad.ops import checks

# Largest relative difference between the model's own logits and ours: some roundings of the dtype they are made in.
_ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


def causal_lm_loss(
    model: nn.Module,
    input_ids: Tensor | None = None,  # [B, T], int64
    attention_mask: Tensor | None = None,  # [B, T]
    labels: Tensor | None = None,  # [B, T], int64; -100 is ignored
    *,
    shift_labels: Tensor | None = None,  # [B, T]: labels that are shifted already
    num_items_in_batch: int | Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    chunk_bytes: int = CHUNK_BYTES,
    backend: str = "auto",
    **inputs: object,
) -> Tensor:  # [], or [B, T] for reduction "none"; float32
    """What ``model(input_ids, attention_mask, labels=labels).loss`` is, through :func:`fastgrad.linear_cross_entropy`.

        mean over the targets that count of  -log softmax(logits[b, t])[labels[b, t + 1]]

    labels: default: input_ids. Positions that are padding have to be -100 in it, as in transformers.
    num_items_in_batch: divides the sum instead of the number of targets that count here; what transformers' Trainer
        passes when a step is made of several micro-batches.
    reduction: ``mean``, or ``none``: the loss of every position, at the place *before* the token that it is about
        (place t predicts labels[t + 1]), 0 where that is ignored.
    inputs: everything else the model takes (pixel_values, position_ids, inputs_embeds, ...).

    The model runs as it is, asked for the logits of the last position only (``logits_to_keep=1``); a hook takes the
    hidden states that its body (``base_model``, ``get_decoder()``) gives. Those few logits are compared with what the
    loss assumes,

        logits = softcap(logit_scale * output_embeddings(hidden))

    with ``final_logit_softcapping`` (Gemma), ``logit_scale`` (Cohere), ``logits_scaling`` (Granite) and
    ``lm_head_multiplier`` (Falcon-H1) of the model's config; a model that does something else to them is refused.

    Errors: ValueError if the model has no linear head, does not take ``logits_to_keep``, makes its logits otherwise,
    has a loss function of its own or adds a router loss (``output_router_logits``); use ``model(...).loss`` there.
    """
    if labels is None and shift_labels is None:
        if input_ids is None:
            raise ValueError("labels: expected labels or shift_labels where there are no input_ids")
        labels = input_ids
    checks.one_of("reduction", reduction, ("mean", "none"))
    if reduction == "none" and num_items_in_batch is not None:
        raise ValueError("num_items_in_batch: expected with reduction 'mean' only")
    inner = _unwrapped(model)
    head = _linear_head(inner)
    _check_loss(inner, inputs)
    named = {"input_ids": input_ids, "attention_mask": attention_mask} | inputs
    hidden, last = _run(model, inner, {name: value for name, value in named.items() if value is not None})
    scale, softcap = _logit_map(inner.config)
    _check_logits(inner, head, hidden, last, scale, softcap)
    if shift_labels is None:
        assert labels is not None, "made of input_ids above"
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    if shift_labels.shape != hidden.shape[:-1]:
        expected, got = list(hidden.shape[:-1]), list(shift_labels.shape)
        raise ValueError(f"labels: expected the shape of the hidden states' tokens, {expected}, got {got}")
    loss = linear_cross_entropy(
        hidden,
        head.weight,
        shift_labels.to(hidden.device),
        bias=head.bias,
        ignore_index=ignore_index,
        reduction=reduction if num_items_in_batch is None else "sum",
        logit_scale=scale,
        softcap=softcap,
        chunk_bytes=chunk_bytes,
        backend=backend,
    )
    if num_items_in_batch is None:
        return loss
    return loss / (num_items_in_batch.to(loss.device) if isinstance(num_items_in_batch, Tensor) else num_items_in_batch)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model inside ``torch.compile`` and DistributedDataParallel."""
    while not hasattr(type(model), "get_output_embeddings"):
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def _linear_head(model: Any) -> nn.Linear:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear):
        raise ValueError(f"model: expected a causal language model with a linear head, got {_name(model)} with {head}")
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise ValueError(f"model: {_name(model)} does not take logits_to_keep and would make all logits")
    return head


def _check_loss(model: Any, inputs: dict[str, Any]) -> None:
    function = getattr(model, "loss_function", None)
    name = getattr(function, "__name__", type(function).__name__)
    if name != "ForCausalLMLoss":
        raise ValueError(f"model: expected the loss function ForCausalLMLoss, {_name(model)} has {name}")
    router = inputs.get("output_router_logits")
    if getattr(model.config.get_text_config(), "output_router_logits", False) if router is None else router:
        raise ValueError("output_router_logits: expected False; the model adds a loss of its router, not made here")


def _run(model: nn.Module, inner: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Hidden states [B, T, H] of the body, and the model's own logits [B, V] of the last position."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: object, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
        if isinstance(hidden, Tensor):
            caught.append(hidden)

    # Some models call their decoder, past the body that holds it; where both are called the body ends last.
    bodies = {id(body): body for body in (inner.base_model, inner.get_decoder()) if body is not inner}
    handles = [body.register_forward_hook(catch) for body in bodies.values()]
    try:
        output = model(**inputs, logits_to_keep=1, use_cache=False, return_dict=True)
    finally:
        for handle in handles:
            handle.remove()
    if not caught:
        raise ValueError(f"model: expected a body of {_name(inner)} that gives last_hidden_state, found none")
    return caught[-1], output.logits[:, -1]


def _logit_map(config: Any) -> tuple[float, float | None]:
    """(logit_scale, softcap) that the config's names stand for."""
    text = config.get_text_config()
    scale = 1.0
    for name, divides in (("logit_scale", False), ("logits_scaling", True), ("lm_head_multiplier", False)):
        value = getattr(text, name, None)
        if value is not None:
            scale = scale / value if divides else scale * value
    return float(scale), getattr(text, "final_logit_softcapping", None)


@torch.no_grad()
def _check_logits(
    model: nn.Module, head: nn.Linear, hidden: Tensor, last: Tensor, scale: float, softcap: float | None
) -> None:
    expected = head(hidden[:, -1]).float() * scale
    if softcap is not None:
        expected = softcap * torch.tanh(expected / softcap)
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    allowed = _ALLOWED[dtype or hidden.dtype]
    difference, size = float((last.float() - expected).norm()), float(last.float().norm())
    if difference > allowed * size:  # NaN on both sides passes: such a loss is NaN here as there
        raise ValueError(
            f"model: {_name(model)} does not make its logits as softcap(logit_scale * head(hidden)) with softcap "
            f"{softcap} and logit_scale {scale}: they differ by {difference:.3g} of {size:.3g}"
        )


def _name(module: nn.Module) -> str:
    return type(module).__name__
