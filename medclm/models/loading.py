"""A model with its processor, by the name that a user gives; what does not fit together is said in one line."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medclm.models.families import Family, family_of
from medclm.problems import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

@dataclass(frozen=True)
class Loaded:
    model: PreTrainedModel
    processor: ProcessorMixin

    @property
    def family(self) -> Family:
        return family_of(self.processor)


def load(name: str | Path, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Loaded:
    """A model that writes text about images.

    name: ``tiny`` (random, for tests), ``student`` (SmolLM2-135M + EfficientNet-Lite0, assembled once), ``student:N``
        (the first N of its language model's blocks), or what ``from_pretrained`` takes for
        ``AutoModelForImageTextToText``: a folder, or a name on the hub.
    seed: of the tiny model's weights.

    Errors: DataError where torchvision is there but broken, where the checkpoint is none of an image-text model, or
    where model and processor are not of one another.
    """
    check_torchvision()
    from transformers.utils import logging

    logging.disable_progress_bar()
    if str(name) == "tiny":
        from medclm.models.tiny import tiny_model

        model, processor = tiny_model(seed)
        for p in model.parameters():  # buffers (the angles of RoPE) stay as they are, as from_pretrained leaves them
            p.data = p.data.to(dtype)
        model.config.dtype = dtype
        return Loaded(model, processor)
    place = str(name)
    if place == "student" or place.startswith("student:"):
        from medclm.models.student import student_folder

        place = str(student_folder(place.removeprefix("student").removeprefix(":")))
    from transformers import AutoModelForImageTextToText

    processor = _processor(place)
    try:
        model = AutoModelForImageTextToText.from_pretrained(place, dtype=dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"model {name}: expected a checkpoint of an image-text model ({_first_line(error)})") from error
    _check_pair(str(name), model, processor)
    return Loaded(model, processor)


def check_torchvision() -> None:
    """torchvision is not needed; one that does not import makes transformers fail far from the cause."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # whatever its binary part raises
        raise DataError(
            f"torchvision is installed but broken ({_first_line(error)}); it is not needed: uninstall it, or install "
            f"the version that belongs to torch {torch.__version__}"
        ) from error


def _processor(place: str) -> ProcessorMixin:
    from transformers import AutoProcessor, ProcessorMixin

    try:
        processor = AutoProcessor.from_pretrained(place)
    except ImportError as error:  # a processor that can do videos, too
        raise DataError(
            f"model {place}: its processor needs a package that is not there ({_first_line(error)}); processors that "
            "read videos, too (SmolVLM, Qwen-VL, InternVL, LLaVA-OneVision), need a torchvision that belongs to torch "
            f"{torch.__version__}"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"model {place}: expected a checkpoint with its processor ({_first_line(error)})") from error
    if not isinstance(processor, ProcessorMixin) or getattr(processor, "image_processor", None) is None:
        raise DataError(f"model {place}: expected the processor of an image-text model, got {type(processor).__name__}")
    return processor


def _check_pair(name: str, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    rows, words = model.get_input_embeddings().weight.shape[0], len(processor.tokenizer)
    if words > rows:
        raise DataError(f"model {name}: its tokenizer has {words} tokens, its embedding {rows}: not of one another")
    if model.config.is_encoder_decoder:
        raise DataError(f"model {name}: expected a decoder-only model, got {type(model).__name__}")


def image_token_id(model: PreTrainedModel) -> int:
    """The token that stands for pixels."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(model.config, name, None), int):
            return found
    raise DataError(f"{type(model).__name__}: expected a config with image_token_id")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
