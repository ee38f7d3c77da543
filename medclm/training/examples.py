"""A row as tokens: the prompt, then the reply, with what each token of the reply belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medclm.codecs import PLACEHOLDER
from medclm.models.families import codec_of, family_of
from medclm.problems import DataError
from medclm.training import prompting
from medclm.training.prompting import generation_inputs, rendered

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

IGNORED = -100
NONE, REASONING, ANSWER = 0, 1, 2  # spans: prompt, image and padding; then what the losses are of
LENGTH_STEP = 32  # tokens; batches of few lengths find the blocks that earlier ones freed, and their kernels made
TAIL = 32  # characters of the prompt that the reply is tokenized behind
_SENTINEL = "MEDCLMREPLY"
_TYPES = ("token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Example:
    """inputs: what the model takes, a batch of one, the reply inside input_ids; labels, spans, boxes: [T].

    boxes: whether a token writes a part of a box.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    spans: Tensor
    boxes: Tensor
    stage: str
    row: Mapping

    @property
    def length(self) -> int:
        return self.labels.shape[0]


@dataclass(frozen=True)
class _Piece:
    text: str
    span: int
    box: bool = False


class ExampleMaker:
    """Makes examples with one processor.

    reasoning: False leaves it out of the reply, and asks for the answer alone (an ablation).
    """

    def __init__(self, processor: ProcessorMixin, *, reasoning: bool = True) -> None:
        if not getattr(processor.tokenizer, "is_fast", False):
            raise DataError(
                f"{type(processor.tokenizer).__name__}: expected a fast tokenizer, which tells where tokens lie in text"
            )
        self.processor, self.reasoning = processor, reasoning
        self._between, self._end = self._around_a_reply()

    @property
    def end_token(self) -> int:
        """What ends a reply: generation has to stop at it."""
        return self._end

    def prompt(self, row: Mapping, stage: str) -> BatchFeature:
        return generation_inputs(self.processor, row, self._asked(stage))

    def example(self, row: Mapping, stage: str) -> Example:
        """Errors: DataError naming the row."""
        prompt = self.prompt(row, stage)
        ids, spans, boxes = self.reply(row, stage)
        before, count = prompt["input_ids"].shape[1], len(ids)
        inputs = {name: value for name, value in prompt.items() if isinstance(value, Tensor)}
        reply = torch.tensor(ids)[None]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], reply], 1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(reply)], 1)
        for name in _TYPES:
            if name in inputs:
                kind = family_of(self.processor).reply_type if name == "token_type_ids" else 0
                inputs[name] = torch.cat([inputs[name], torch.full_like(reply, kind)], 1)
        labels = torch.full((before + count,), IGNORED)
        labels[before:] = reply[0]
        nothing = torch.zeros(before, dtype=torch.int64)
        return Example(
            inputs,
            labels,
            torch.cat([nothing, torch.tensor(spans)]),
            torch.cat([nothing, torch.tensor(boxes)]).bool(),
            stage,
            row,
        )

    def reply(self, row: Mapping, stage: str) -> tuple[list[int], list[int], list[int]]:
        """(token, span, whether it writes a box) of every token of the reply, the end token last.

        It is tokenized behind the end of the prompt, so that its first token is the one the model would write there.
        """
        pieces = self._pieces(row, stage)
        text = "".join(piece.text for piece in pieces)
        tail = prompting.prompt_text(self.processor, row, self._asked(stage))[-TAIL:]
        tokenizer = self.processor.tokenizer
        known = tokenizer(tail, add_special_tokens=False)["input_ids"]
        joint = tokenizer(tail + text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets, start = joint["input_ids"], joint["offset_mapping"], len(tail)
        if ids[: len(known)] == known:
            ids, offsets = ids[len(known) :], offsets[len(known) :]
        else:  # prompt and reply share a token: the reply begins anew, as it does in generation
            joint = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets, start = joint["input_ids"], joint["offset_mapping"], 0
        spans, boxes = [], []
        for first, last in offsets:
            # A token over the edge of two pieces belongs to the one in which it ends.
            piece = _piece_at(pieces, max(last - 1, first) - start)
            spans.append(piece.span)
            boxes.append(int(piece.box))
        return [*ids, self._end], [*spans, ANSWER], [*boxes, 0]

    def _asked(self, stage: str) -> str:
        return stage if self.reasoning else "hard"

    def _pieces(self, row: Mapping, stage: str) -> list[_Piece]:
        reasoned = self.reasoning and stage != "hard" and row["cot"]
        pieces = [_Piece(self._between, REASONING if reasoned else ANSWER)] if self._between else []
        if reasoned:
            pieces += [_Piece("Reasoning: ", REASONING), *self._texts(row, "cot", REASONING), _Piece("\n\n", REASONING)]
        return [*pieces, _Piece("Answer: ", ANSWER), *self._texts(row, "answer", ANSWER)]

    def _texts(self, row: Mapping, field: str, span: int) -> list[_Piece]:
        """A text of the row; each box in it is a piece of its own."""
        rendered(self.processor, row, field)  # checks it
        text, codec = row[field], codec_of(self.processor)
        pieces, at = [], 0
        for match in PLACEHOLDER.finditer(text):
            index = int(match[1])
            pieces.append(_Piece(text[at : match.start()], span))
            written = codec.encode(row["boxes"][index], (row["width"], row["height"]), row["labels"][index])
            pieces.append(_Piece(written, span, box=True))
            at = match.end()
        pieces.append(_Piece(text[at:], span))
        return [piece for piece in pieces if piece.text]

    def _around_a_reply(self) -> tuple[str, int]:
        """What the chat template puts between the prompt and the reply (a space, often), and the token behind it."""
        tokenizer = self.processor.tokenizer
        between, suffix = "", ""
        if getattr(self.processor, "chat_template", None):
            prompt = self.processor.apply_chat_template(
                prompting.conversation("?"), add_generation_prompt=True, tokenize=False
            )
            whole = self.processor.apply_chat_template(prompting.conversation("?", _SENTINEL), tokenize=False)
            before, _, suffix = whole.partition(_SENTINEL)
            if before.startswith(prompt):
                between = before[len(prompt) :]
        special = sorted(
            (suffix.find(token), -len(token), token)
            for token in {*tokenizer.all_special_tokens, *_added(tokenizer)}
            if token in suffix
        )
        end = tokenizer.convert_tokens_to_ids(special[0][2]) if special else tokenizer.eos_token_id
        if end is None:
            raise DataError(f"{type(tokenizer).__name__}: expected an eos token, or a chat template with an end token")
        return between, end


def _added(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def _piece_at(pieces: Sequence[_Piece], place: int) -> _Piece:
    for piece in pieces:
        if place < len(piece.text):
            return piece
        place -= len(piece.text)
    return pieces[-1]


@dataclass(frozen=True)
class Batch:
    """Examples of one step side by side, padded on the right: inputs for the model; labels, spans, boxes [B, T]."""

    inputs: dict[str, Tensor]
    labels: Tensor
    spans: Tensor
    boxes: Tensor
    stages: list[str]
    rows: list[Mapping]

    @property
    def tokens(self) -> int:
        return int(self.inputs["attention_mask"].sum())


def collate(examples: Sequence[Example], pad_token: int, longest: int | None = None) -> Batch:
    """longest: what the model can do, which padding does not go beyond."""
    needed = max(example.length for example in examples)
    length = math.ceil(needed / LENGTH_STEP) * LENGTH_STEP
    if longest is not None:
        length = max(needed, min(length, longest))
    fill = {"input_ids": pad_token, "attention_mask": 0} | dict.fromkeys(_TYPES, 0)
    inputs = {}
    for name in examples[0].inputs:
        values = [example.inputs[name] for example in examples]
        if name in fill:
            inputs[name] = torch.cat([_right_padded(value, length, fill[name]) for value in values])
        else:
            inputs[name] = torch.cat(_equal_sizes(values))

    def stacked(name: str, value: int) -> Tensor:
        return torch.cat([_right_padded(getattr(example, name)[None], length, value) for example in examples])

    return Batch(
        inputs,
        stacked("labels", IGNORED),
        stacked("spans", NONE),
        stacked("boxes", 0),
        [example.stage for example in examples],
        [example.row for example in examples],
    )


def _right_padded(value: Tensor, length: int, fill: int) -> Tensor:  # [1, t] -> [1, length]
    return torch.nn.functional.pad(value, (0, length - value.shape[1]), value=fill)


def _equal_sizes(values: list[Tensor]) -> list[Tensor]:
    """Zeros behind every dimension but the first: families that cut an image into tiles make different numbers of
    them; their models leave out tiles of zeros, or count those that are there by ``image_sizes``."""
    sizes = [max(size) for size in zip(*(value.shape[1:] for value in values), strict=True)]
    made = []
    for value in values:
        pads = [
            n for size, own in zip(reversed(sizes), reversed(value.shape[1:]), strict=True) for n in (0, size - own)
        ]
        made.append(torch.nn.functional.pad(value, pads) if any(pads) else value)
    return made
