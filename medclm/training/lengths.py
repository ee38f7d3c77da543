"""Rows that do not fit are found before training: nothing is ever cut off, least of all image tokens."""

from __future__ import annotations

from collections.abc import Sequence

from medclm.models.loading import Loaded
from medclm.problems import DataError
from medclm.training.examples import ExampleMaker
from medclm.training.prompting import question_of
from medclm.training.records import Rows

SLACK = 8  # tokens by which the estimate may be off


def longest_allowed(loaded: Loaded, asked: int) -> int:
    """Tokens of a sample: what was asked for, at most what the model can do."""
    most = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if asked and most and asked > most:
        raise DataError(f"max_length: expected at most the model's {most} tokens, got {asked}")
    return asked or most or 1 << 30


def too_long(
    rows: Rows, maker: ExampleMaker, image_token: int, most: int, stages: Sequence[str], *, first_only: bool
) -> tuple[set[int], str]:
    """(indices of rows that have more tokens than ``most``, words about the first).

    Tokens of an image hang on its size alone, so one image of every size is looked at; texts are tokenized. Rows that
    come near the limit are made as they would be in training.
    """
    tokenizer = maker.processor.tokenizer
    around: dict[tuple[int, int], int] = {}
    found: set[int] = set()
    words = ""
    for index, row in enumerate(rows.texts):
        if row["stage"] not in stages:
            continue
        size = row["width"], row["height"]
        question = len(
            tokenizer(question_of(maker.processor, row, row["stage"]), add_special_tokens=False)["input_ids"]
        )
        if size not in around:
            around[size] = maker.prompt(rows[index], row["stage"])["input_ids"].shape[1] - question
        estimate = around[size] + question + len(maker.reply(row, row["stage"])[0])
        if estimate + SLACK <= most:
            continue
        example = maker.example(rows[index], row["stage"])
        if example.length <= most:
            continue
        if not found:
            images = int((example.inputs["input_ids"] == image_token).sum())
            cut = " (image tokens would be cut off)" if images > most else ""
            words = f"row {row['id']} has {example.length} tokens, {images} of them of the image{cut}"
        found.add(index)
        if first_only:
            break
    return found, words
