"""causal_lm_loss: the loss and gradients of transformers' own models, and refusals of what it would get wrong."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from fastgrad.integrations.causal_lm import causal_lm_loss

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = dict(
    vocab_size=211, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
KINDS = [
    ("Llama", {}),
    ("Llama", dict(tie_word_embeddings=True)),
    ("Qwen2", {}),
    ("Gemma2", dict(head_dim=8, final_logit_softcapping=3.0)),
    ("Cohere", dict(logit_scale=0.25)),
    ("Granite", dict(logits_scaling=4.0)),
    ("Mixtral", {}),
    ("GPTNeoX", dict(num_key_value_heads=None)),
    ("OPT", dict(ffn_dim=48, word_embed_proj_dim=16, num_key_value_heads=None)),
]


def model_of(kind: str, **changed) -> nn.Module:
    options = {name: value for name, value in (SMALL | changed).items() if value is not None}
    config = getattr(transformers, f"{kind}Config")(**options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)  # logits that differ from each other
    return model


def ids(batch=2, length=17) -> Tensor:
    return torch.randint(3, 200, (batch, length))


def loss_and_gradients(model: nn.Module, function) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = function()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: nn.Module, inputs: dict[str, Tensor], tolerance=1e-4, **options) -> None:
    """Loss and every gradient, relative to the largest gradient's norm."""
    expected, exact = loss_and_gradients(model, lambda: model(**inputs, **options).loss)
    got, gradients = loss_and_gradients(model, lambda: causal_lm_loss(model, **inputs, **options))
    torch.testing.assert_close(got, expected.float(), rtol=tolerance / 10, atol=0)
    assert gradients.keys() == exact.keys()
    largest = max(float(g.norm()) for g in exact.values())
    for name, g in gradients.items():
        assert float((g - exact[name]).norm()) <= tolerance * max(float(exact[name].norm()), 1e-3 * largest), name


def test_losses_of_every_position():
    model, tokens = model_of("Gemma2", head_dim=8, final_logit_softcapping=3.0), ids()
    labels = tokens.clone()
    labels[0, :5] = -100
    got = causal_lm_loss(model, tokens, labels=labels, reduction="none")
    logits = model(tokens).logits.float()
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(got[:, :-1].flatten(), expected, rtol=1e-4, atol=1e-5)
    assert got.shape == tokens.shape and not got[:, -1].any() and not got[0, :4].any() and got[0, 4] > 0
    with pytest.raises(ValueError, match="num_items_in_batch: expected with reduction 'mean' only"):
        causal_lm_loss(model, tokens, reduction="none", num_items_in_batch=3)
    with pytest.raises(ValueError, match="reduction"):
        causal_lm_loss(model, tokens, reduction="sum")


@pytest.mark.parametrize(("kind", "changed"), KINDS, ids=lambda value: value if isinstance(value, str) else None)
def test_loss_of_the_model(kind, changed):
    model, tokens = model_of(kind, **changed), ids()
    labels = tokens.clone()
    labels[0, :5] = -100
    mask = torch.ones_like(tokens)
    mask[1, 12:] = 0
    assert_same(model, dict(input_ids=tokens, attention_mask=mask, labels=labels))


def test_normalization_over_micro_batches():
    """num_items_in_batch divides the sum, as a number and as a tensor."""
    model, tokens = model_of("Llama"), ids()
    for number in (50, torch.tensor(50)):
        assert_same(model, dict(input_ids=tokens, labels=tokens), num_items_in_batch=number)


def test_labels_that_are_shifted_already():
    model, tokens = model_of("Llama"), ids()
    shifted = nn.functional.pad(tokens, (0, 1), value=-100)[:, 1:]
    expected = causal_lm_loss(model, tokens)
    torch.testing.assert_close(causal_lm_loss(model, tokens, shift_labels=shifted), expected, rtol=0, atol=0)
    torch.testing.assert_close(model(tokens, labels=tokens).loss, expected)


def test_pictures_in_the_prompt():
    """A vision-language model, whose body takes the pixels."""
    vision = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision, patch_size=14),
        text_config=transformers.LlamaConfig(**SMALL), image_token_id=205, vision_feature_layer=-1,
    )  # fmt: skip
    model, tokens = transformers.LlavaForConditionalGeneration(config).eval(), ids()
    tokens[:, 2:6] = 205
    labels = tokens.clone()
    labels[:, :8] = -100
    assert_same(model, dict(input_ids=tokens, labels=labels, pixel_values=torch.randn(2, 3, 28, 28)))


def test_training_mode_draws_the_same_dropout():
    model, tokens = model_of("GPTNeoX", num_key_value_heads=None, hidden_dropout=0.2).train(), ids()

    def seeded(function):
        torch.manual_seed(5)
        return function()

    own = seeded(lambda: model(tokens, labels=tokens).loss)
    torch.testing.assert_close(seeded(lambda: causal_lm_loss(model, tokens)), own)
    assert seeded(lambda: model(tokens, labels=tokens).loss) != model(tokens, labels=tokens).loss


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    model, tokens = model_of("Llama").train(), ids()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert_same(model, dict(input_ids=tokens, labels=tokens))


def test_bfloat16():
    """As far from the model's own loss as bfloat16 logits are from exact ones."""
    tokens = ids()
    assert_same(model_of("Llama").bfloat16(), dict(input_ids=tokens, labels=tokens), tolerance=0.05)
    model = model_of("Llama")
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(model, dict(input_ids=tokens, labels=tokens), tolerance=0.05)


def test_compiled_model():
    """The hook does not make the compiler start again."""
    tokens = ids()
    model = model_of("Llama")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # of other tests
    compiled = torch.compile(model, backend="aot_eager")
    losses = [causal_lm_loss(compiled, tokens) for _ in range(3)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(torch.stack(losses), model(tokens, labels=tokens).loss.expand(3))
    torch._dynamo.reset()


def test_logits_of_the_last_position_only():
    """The model itself never makes the others."""
    model, tokens, seen = model_of("Llama"), ids(), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    causal_lm_loss(model, tokens)
    assert set(seen) == {(2, 1, 211), (2, 211)}


def changed_model(change) -> nn.Module:
    """A Llama that does something of its own with its logits."""

    class Changed(transformers.LlamaForCausalLM):
        def forward(self, *arguments, logits_to_keep=0, **options):
            output = super().forward(*arguments, logits_to_keep=logits_to_keep, **options)
            output.logits = change(output.logits)
            return output

    return Changed(transformers.LlamaConfig(**SMALL))


def without_logits_to_keep() -> nn.Module:
    model = model_of("Llama")
    forward = model.forward
    model.forward = lambda input_ids, labels=None: forward(input_ids, labels=labels)
    assert "logits_to_keep" not in inspect.signature(model.forward).parameters
    return model


def with_a_loss_of_its_own() -> nn.Module:
    model = model_of("Llama")
    model.loss_function = lambda *arguments, **options: torch.zeros(())
    return model


REFUSED = {
    "scaled logits": (lambda: changed_model(lambda z: z * 1.01), "does not make its logits as softcap"),
    "shifted logits": (lambda: changed_model(lambda z: z + 1), "does not make its logits as softcap"),
    "router loss": (lambda: model_of("Mixtral", output_router_logits=True), "output_router_logits: expected False"),
    "all logits": (without_logits_to_keep, "does not take logits_to_keep"),
    "loss function": (with_a_loss_of_its_own, "expected the loss function ForCausalLMLoss"),
    "no language model": (lambda: nn.Linear(2, 2), "expected a causal language model with a linear head"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        causal_lm_loss(make(), ids())


def test_bad_labels():
    model = model_of("Llama")
    with pytest.raises(ValueError, match="labels: expected labels or shift_labels"):
        causal_lm_loss(model, inputs_embeds=torch.randn(2, 5, 32))
    with pytest.raises(ValueError, match=r"labels: expected the shape of the hidden states' tokens, \[2, 17\]"):
        causal_lm_loss(model, ids(), labels=ids(2, 16))
