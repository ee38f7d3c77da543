"""LoRA, by PEFT: small matrices beside the frozen ones of the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medclm.problems import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX, _BASE = "base_model.model.", ".base_layer."


def add_adapters(model: PreTrainedModel, rank: int, seed: int) -> nn.Module:
    """The model with adapters on every linear layer of its language part; nothing else is trained, except what joins
    picture and words: where that was never trained (the offline student) no adapter could make up for it."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise DataError("lora: expected peft (pip install -e '.[medclm-train]' in the clone)") from error
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    targets = [name for name, module in model.named_modules() if id(module) in inside and isinstance(module, nn.Linear)]
    joiners = [
        name
        for name, _ in model.named_modules()
        if name.rpartition(".")[2] in ("multi_modal_projector", "connector", "merger")
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        plain = name.removeprefix(_PREFIX)
        if any(plain.startswith(f"{joiner}.") for joiner in joiners):
            parameter.requires_grad_(True)
    return adapted


def merged_state_dict(adapted: nn.Module) -> dict[str, Tensor]:
    """What the plain model's state_dict would be with the adapters added to its weights; the model is left alone."""
    from peft.tuners.lora import LoraLayer

    state = {
        name.removeprefix(_PREFIX).replace(_BASE, "."): value
        for name, value in adapted.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            key = f"{name.removeprefix(_PREFIX)}.weight"
            weight = state[key]
            state[key] = (weight.float() + module.get_delta_weight("default").float()).to(weight.dtype)
    return state


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
