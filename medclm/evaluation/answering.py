"""Greedy replies of a model, a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medclm.boxes import Box
from medclm.evaluation.prompts import Asked
from medclm.problems import DataError

if TYPE_CHECKING:
    import torch

    from medclm.models.loading import Loaded


@dataclass(frozen=True)
class Reply:
    """boxes: that stand in the text, pixels of the image; only read where the question has a size."""

    text: str
    boxes: tuple[Box, ...] = ()
    tokens: int = 0


class Answers(Protocol):
    """name, fingerprint: equal fingerprints, equal replies."""

    name: str
    fingerprint: str

    def __call__(self, rows: Sequence[Mapping], asked: Sequence[Asked]) -> list[Reply]: ...


def checkpoint_of(name: str) -> str:
    """Of a run folder its ``checkpoint``; anything else as it is."""
    inner = Path(name) / "checkpoint"
    return str(inner) if inner.is_dir() else name


@dataclass
class ModelAnswers:
    """A model of transformers with its processor. rows: as generation_inputs takes them, with ``image`` a PIL image.

    The replies of a batch are those of its rows one at a time, but for the rounding of sums over padded batches.
    """

    name: str
    loaded: Loaded
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.loaded.model.eval()
        self.fingerprint = _fingerprint(self.loaded)

    @classmethod
    def load(cls, name: str, *, device: str, dtype: str) -> ModelAnswers:
        """``name``: a run folder, or what :func:`medclm.models.loading.load` takes. dtype: float32 or bfloat16."""
        import torch

        from medclm.models.loading import load

        if dtype not in ("float32", "bfloat16"):
            raise DataError(f"dtype: expected float32 or bfloat16, got {dtype!r}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise DataError(f"device: expected cpu, as there is no GPU that torch can use, got {device!r}")
        try:
            loaded = load(checkpoint_of(name), dtype=getattr(torch, dtype))
            loaded.model.to(device)
        except RuntimeError as error:
            raise DataError(f"device: {device!r} cannot be used ({str(error).splitlines()[0]})") from error
        return cls(name, loaded)

    def __call__(self, rows: Sequence[Mapping], asked: Sequence[Asked]) -> list[Reply]:
        import torch

        from medclm.models.families import codec_of
        from medclm.training.prompting import for_model, generation_inputs

        model, processor = self.loaded.model, self.loaded.processor
        inputs = [
            generation_inputs(processor, dict(row) | {"question": each.text}, each.stage)
            for row, each in zip(rows, asked, strict=True)
        ]
        batch = for_model(collate(inputs, self._pad), model)
        start = batch["input_ids"].shape[1]
        with torch.inference_mode():
            made = model.generate(**batch, generation_config=self._greedy(max(each.tokens for each in asked)))
        replies = []
        for row, each, ids in zip(rows, asked, made[:, start:].tolist(), strict=True):
            # A greedy reply to fewer tokens is the beginning of one to more: no row depends on its neighbours' limits.
            ids = _until(ids[: each.tokens], self._ends)
            size = (row["width"], row["height"])
            # Some families write boxes with special tokens.
            raw = processor.tokenizer.decode(ids, skip_special_tokens=False)
            boxes = tuple(box for _, box in codec_of(processor).decode(raw, size)) if all(size) else ()
            text = processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
            replies.append(Reply(text, boxes, len(ids)))
        return replies

    @property
    def _pad(self) -> int:
        tokenizer = self.loaded.processor.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    @property
    def _ends(self) -> list[int]:
        given = getattr(self.loaded.model.generation_config, "eos_token_id", None)
        ends = set(given if isinstance(given, (list, tuple)) else [given])
        return sorted((ends | {self.loaded.processor.tokenizer.eos_token_id}) - {None})

    def _greedy(self, tokens: int) -> Any:
        """Whatever the checkpoint's own settings say of sampling, beams and penalties."""
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            max_new_tokens=tokens,
            pad_token_id=self._pad,
            eos_token_id=self._ends,
        )


def collate(inputs: Sequence[Mapping[str, torch.Tensor]], pad: int) -> dict[str, torch.Tensor]:
    """One batch of batches of one. What goes with the tokens is padded on the left, so that every prompt ends where its
    reply begins; what goes with the pixels is put one behind the other, filled up with zeros where sizes differ (tiles,
    which the models that have them skip)."""
    import torch
    from torch.nn.functional import pad as padded

    length = max(each["input_ids"].shape[1] for each in inputs)
    batch = {}
    for name, first in inputs[0].items():
        parts = [each[name] for each in inputs]
        if first.shape == inputs[0]["input_ids"].shape:
            fill = pad if name == "input_ids" else 0
            parts = [padded(part, (length - part.shape[1], 0), value=fill) for part in parts]
        else:
            largest = [max(part.shape[axis] for part in parts) for axis in range(1, first.ndim)]
            parts = [
                padded(
                    part,
                    [n for axis in range(first.ndim - 1, 0, -1) for n in (0, largest[axis - 1] - part.shape[axis])],
                )
                for part in parts
            ]
        batch[name] = torch.cat(parts)
    return batch


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    return next((ids[:place] for place, id in enumerate(ids) if id in ends), ids)


def _fingerprint(loaded: Loaded) -> str:
    """32 hexadecimal digits of the weights' bits, of the tokens and of how images are prepared; not of where they were
    loaded from."""
    import torch

    state = hashlib.sha256()
    for name, tensor in sorted(loaded.model.state_dict().items()):
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    processor = loaded.processor
    images = {key: str(value) for key, value in processor.image_processor.to_dict().items() if not key.startswith("_")}
    says = (type(processor).__name__, getattr(processor, "chat_template", None), sorted(images.items()))
    state.update(repr(says).encode())
    state.update(repr(sorted(processor.tokenizer.get_vocab().items(), key=lambda each: each[1])[-64:]).encode())
    return state.hexdigest()[:32]
