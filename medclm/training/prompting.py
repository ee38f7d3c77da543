"""From a row of a set to what a model is given: the same text in training and in evaluation."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image

from medclm.codecs import render
from medclm.models.families import codec_of, family_of
from medclm.problems import DataError
from medclm.schema import STAGES

if TYPE_CHECKING:
    import torch
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

# The two kinds of reply are asked for in words: a model that learned both cannot know otherwise which one is wanted.
REASONED = "First give the reasoning, then the answer."
BRIEF = "Give only the answer."
INSTRUCTIONS = {"easy": REASONED, "medium": REASONED, "hard": BRIEF}


def generation_inputs(processor: ProcessorMixin, row: Mapping, stage: str | None) -> BatchFeature:
    """What ``model.generate`` takes for one row: the prompt's tokens and the image, a batch of one, as tensors.

    The tokens are those before the reply in training, one for one.

    row: of ``medclm.schema``, or any mapping with ``image`` ({"bytes", ..}, or a PIL image) and ``question``; boxes are
        only looked up where the question names one.
    stage: ``easy`` and ``medium`` ask for reasoning before the answer, ``hard`` for the answer alone; None asks the
        question as it stands (benchmarks that have words of their own for it).

    Errors: DataError naming the row.
    """
    image, question = image_of(row), question_of(processor, row, stage)
    family = family_of(processor)
    if getattr(processor, "chat_template", None):
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        return processor.apply_chat_template(
            [[{"role": "user", "content": content}]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    if family.prompt is None:
        raise DataError(
            f"{type(processor).__name__}: expected a processor with a chat template; it has none, and how its family "
            "is asked is not known here"
        )
    # These processors put a line feed behind the text themselves.
    text = processor.image_token + family.prompt.format(question=question).removesuffix("\n")
    inputs = processor(text=[text], images=[[image]], return_tensors="pt")
    inputs.pop("labels", None)  # all -100: there is no reply yet
    return inputs


def prompt_text(processor: ProcessorMixin, row: Mapping, stage: str) -> str:
    """The prompt before its image tokens are multiplied."""
    question = question_of(processor, row, stage)
    if getattr(processor, "chat_template", None):
        return processor.apply_chat_template(conversation(question), add_generation_prompt=True, tokenize=False)
    return (family_of(processor).prompt or "{question}").format(question=question)


def conversation(question: str, reply: str | None = None) -> list[dict]:
    """Messages as chat templates take them, without pixels."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    if reply is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})
    return messages


def question_of(processor: ProcessorMixin, row: Mapping, stage: str | None) -> str:
    """The question with its boxes in the model's own form, and what kind of reply is asked for."""
    if stage is None:
        return rendered(processor, row, "question")
    if stage not in STAGES:
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, got {stage!r}")
    return f"{rendered(processor, row, 'question')}\n{INSTRUCTIONS[stage]}"


def rendered(processor: ProcessorMixin, row: Mapping, field: str) -> str:
    """A text of the row, its boxes written as the model writes them. Raises DataError where it names a box that the row
    does not have, or holds the text of a special token, which would be taken for one."""
    text = row[field]
    if "<box:" in text:
        size = (row["width"], row["height"])
        try:
            text = render(text, row["boxes"], row["labels"], size, codec_of(processor))
        except ValueError as error:
            raise DataError(f"{name_of(row)}: {error}") from None
    image_token = getattr(processor, "image_token", None)
    if image_token and str(image_token) in text:
        raise DataError(f"{name_of(row)}: expected a {field} without the model's image token {image_token}")
    return text


def image_of(row: Mapping) -> Image.Image:
    """RGB. Raises DataError where the row holds no readable picture."""
    image = row["image"]
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    data = image.get("bytes") if isinstance(image, Mapping) else None
    if not data:
        raise DataError(f"{name_of(row)}: expected an embedded image, got none; convert the set again")
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError) as error:
        raise DataError(f"{name_of(row)}: expected a readable image ({error})") from None


def name_of(row: Mapping) -> str:
    return f"row {row.get('id', '?')}"


def for_model(inputs: Mapping, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """On the model's device, pixels in its dtype."""
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
