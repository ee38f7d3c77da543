"""``python -m bench.curriculum_model SET OUT``: the small student that curricula are compared with.

Twelve fine-tunes of the whole student take days on a few cores. This one learns the same task in minutes each: the same
EfficientNet-Lite0 (trained on ImageNet) on pictures of 160 pixels, and in front of it a language model of a few random
blocks with a vocabulary made from the set's own words. It is a checkpoint like any other: ``medclm ablation SET
--model OUT``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medclm.models import student
from medclm.training.records import Rows

SIDE = 160  # pixels: 5 x 5 image tokens
WORDS = 1000  # of the vocabulary
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tokenizer_of(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; each digit is a token of its own, so that a coordinate is always as many."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=SPECIAL[0], eos_token=SPECIAL[2])


def make(folder: Path, out: Path, *, width: int = 256, blocks: int = 4, seed: int = 0) -> int:
    """Parameters of the model that is written to ``out``."""
    rows = Rows(folder, "train")
    tokenizer = tokenizer_of(text for row in rows.texts for text in (row["question"], row["cot"], row["answer"]))
    torch.manual_seed(seed)
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=blocks,
            num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=1024,
            tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    model, processor = student.assemble(language, tokenizer, student.efficientnet(), image_size=SIDE)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return model.num_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.curriculum_model", description=__doc__.partition("\n")[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    print(f"{options.out}: {make(options.set, options.out):,} parameters")


if __name__ == "__main__":
    main()
