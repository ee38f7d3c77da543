"""Llama shapes, and a model of one with random weights that never stands in memory in a wider type than its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class LlamaShape:
    name: str
    title: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool  # the output layer is the embedding
    rope_theta: float = 10000.0

    def config(self) -> LlamaConfig:
        from transformers import LlamaConfig

        return LlamaConfig(
            num_hidden_layers=self.layers, hidden_size=self.hidden, intermediate_size=self.intermediate,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied, max_position_embeddings=2048, use_cache=False,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
        )  # fmt: skip


SHAPES = {
    shape.name: shape
    for shape in (
        LlamaShape("llama-tiny", "a tiny Llama", 2, 64, 192, 4, 2, 512, tied=False),
        LlamaShape("llama-135m", "SmolLM2-135M's shape", 30, 576, 1536, 9, 3, 49152, tied=True, rope_theta=100000.0),
        LlamaShape("llama-1.1b", "TinyLlama-1.1B's shape", 22, 2048, 5632, 32, 4, 32000, tied=False),
    )
}


def random_llama(
    shape: LlamaShape,
    dtype: torch.dtype,
    *,
    seed: int = 0,
    convert: Callable[[nn.Module], object] | None = None,
) -> LlamaForCausalLM:
    """A Llama on the CPU with weights N(0, 0.02), norms 1, made one module at a time from a model without storage.

    convert  is called with each module that owns parameters, right after it was filled: a model of int8 weights
             holds at most one module in ``dtype``
    """
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = shape.config()
    config.dtype = dtype
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for module in list(model.modules()):
        own = dict(module.named_parameters(recurse=False))
        if not own or (shape.tied and module is model.lm_head):
            continue
        module.to_empty(device="cpu", recurse=False)
        with torch.no_grad():
            for parameter in module.parameters(recurse=False):
                if parameter.dim() > 1:
                    parameter.normal_(0.0, config.initializer_range, generator=generator)
                else:
                    parameter.fill_(1.0)
        if convert is not None:
            convert(module)
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # its table is computed where it is made: not on meta
    model.tie_weights()
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise RuntimeError(f"random_llama: expected every tensor in memory, without storage are {', '.join(left)}")
    return model
