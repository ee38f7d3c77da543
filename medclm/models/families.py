"""What differs between families of vision-language models, by the class of their processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medclm.codecs import Codec, codec

if TYPE_CHECKING:
    from transformers import ProcessorMixin


@dataclass(frozen=True)
class Family:
    """codec: how the family writes boxes (``medclm.codecs``).
    reply_type: what ``token_type_ids`` say of the tokens of a reply, where the processor gives such.
    prompt: the text of a question for a processor that has no chat template; it puts the image tokens there itself.
    """

    name: str
    codec: str
    reply_type: int = 0
    prompt: str | None = None


OTHER = Family("other", "plain")
# PaliGemma attends both ways within the prefix (type 0) and is causal within the reply (type 1).
_PALIGEMMA = Family("paligemma", "paligemma", reply_type=1, prompt="answer en {question}\n")
FAMILIES = {
    "Idefics3Processor": Family("idefics3", "plain"),
    "SmolVLMProcessor": Family("smolvlm", "plain"),
    "LlavaProcessor": Family("llava", "plain"),
    "LlavaNextProcessor": Family("llava_next", "plain"),
    "LlavaOnevisionProcessor": Family("llava_onevision", "plain"),
    "Qwen2VLProcessor": Family("qwen2_vl", "qwen2_vl"),
    "Qwen2_5_VLProcessor": Family("qwen2_5_vl", "qwen2_5_vl"),
    "Qwen3VLProcessor": Family("qwen3_vl", "qwen3_vl"),
    "InternVLProcessor": Family("internvl", "internvl"),
    "PaliGemmaProcessor": _PALIGEMMA,
    "Gemma3Processor": Family("gemma3", "gemma"),
}


def family_of(processor: ProcessorMixin) -> Family:
    """Of a processor; ``other``, with boxes as plain text, for one that is not listed."""
    for kind in type(processor).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    return OTHER


def codec_of(processor: ProcessorMixin) -> Codec:
    """The box codec of the family, at the image sizes that this processor makes."""
    name = family_of(processor).codec
    size = getattr(processor.image_processor, "size", None) if name == "qwen2_5_vl" else None
    if size is None:
        return codec(name)
    # The boxes of Qwen2.5-VL are pixels of the resized image. Older configs say min_pixels, newer ones an edge.
    lowest = size.get("shortest_edge") or getattr(processor.image_processor, "min_pixels", None)
    highest = size.get("longest_edge") or getattr(processor.image_processor, "max_pixels", None)
    return codec(name, min_pixels=lowest, max_pixels=highest)
