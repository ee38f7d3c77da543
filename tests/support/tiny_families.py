"""Random vision-language models of every family with their processors, a few hundred thousand parameters each, made
without a network: byte-level tokenizers, 32-pixel images.

Processors that want a video processor get :class:`NoVideos`: transformers' own need torchvision, which these tests do
not have. Nothing here is a video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# LLaVA-1.5's: a space before the reply that the generation prompt does not have, nothing special behind it.
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "IMAGE\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% else %}ASSISTANT: {{ m['content'][0]['text'] }} "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEXT = dict(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=2048,
)  # fmt: skip
VISION = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


class NoVideos:
    """Stands where a processor wants a video processor."""

    model_input_names = ()
    unused_input_names = ()
    num_frames = fps = 1  # SmolVLM asks for both before it knows whether there is a video


@dataclass
class Tiny:
    model: tf.PreTrainedModel
    processor: tf.ProcessorMixin
    end: str  # what ends a reply
    image_tokens: tuple[str, ...]  # the placeholders of pixels


def byte_tokenizer(special: list[str], roles: dict[str, str], eos: str) -> tf.PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>", "<unk>", *special]
    vocabulary = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token=eos, unk_token="<unk>",
        extra_special_tokens=roles,
    )  # fmt: skip


def _chatml(special: list[str], roles: dict[str, str]) -> tf.PreTrainedTokenizerFast:
    return byte_tokenizer(["<|im_start|>", "<|im_end|>", *special], roles, "<|im_end|>")


def _llama(tok: tf.PreTrainedTokenizerFast, **more: object) -> tf.LlamaConfig:
    return tf.LlamaConfig(
        vocab_size=len(tok), pad_token_id=0, bos_token_id=1, eos_token_id=tok.eos_token_id, **TEXT, **more
    )


def _id(tok: tf.PreTrainedTokenizerFast, token: str) -> int:
    return tok.convert_tokens_to_ids(token)


def idefics3() -> Tiny:
    special = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
    roles = {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
    }  # fmt: skip
    tok = _chatml(special, roles)
    # As SmolVLM's: the reply follows a space, and ends with a token that is not eos.
    chat = (
        "{% for m in messages %}{{ m['role'] | capitalize }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    images = tf.Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = tf.Idefics3Processor(images, tok, image_seq_len=4, chat_template=chat)
    config = tf.Idefics3Config(
        image_token_id=_id(tok, "<image>"), scale_factor=2, vision_config=dict(VISION, image_size=32, patch_size=8),
        text_config=_llama(tok), tie_word_embeddings=True,
    )  # fmt: skip
    return Tiny(tf.Idefics3ForConditionalGeneration(config), processor, "<end_of_utterance>", ("<image>",))


def llava() -> Tiny:
    tok = byte_tokenizer(["<image>"], {"image_token": "<image>"}, "</s>")
    processor = tf.LlavaProcessor(
        _clip_images(), tok, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=VICUNA.replace("IMAGE", "<image>"),
    )  # fmt: skip
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(image_size=32, patch_size=8, **VISION), text_config=_llama(tok),
        image_token_index=_id(tok, "<image>"),
    )  # fmt: skip
    return Tiny(tf.LlavaForConditionalGeneration(config), processor, "</s>", ("<image>",))


def vip_llava() -> Tiny:
    made = llava()
    config = tf.VipLlavaConfig(
        vision_config=tf.CLIPVisionConfig(image_size=32, patch_size=8, **VISION),
        text_config=_llama(made.processor.tokenizer), image_token_index=made.model.config.image_token_id,
        vision_feature_layers=[-1, -2], projector_layernorm_eps=1e-5,
    )  # fmt: skip
    return Tiny(tf.VipLlavaForConditionalGeneration(config), made.processor, "</s>", ("<image>",))


def _clip_images() -> tf.CLIPImageProcessorPil:
    return tf.CLIPImageProcessorPil(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})


def llava_next() -> Tiny:
    tok = byte_tokenizer(["<image>"], {"image_token": "<image>"}, "</s>")
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    images = tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints
    )
    processor = tf.LlavaNextProcessor(
        images, tok, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=VICUNA.replace("IMAGE", "<image>"),
    )  # fmt: skip
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(image_size=32, patch_size=8, **VISION), text_config=_llama(tok),
        image_token_index=_id(tok, "<image>"), image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    return Tiny(tf.LlavaNextForConditionalGeneration(config), processor, "</s>", ("<image>",))


def llava_onevision() -> Tiny:
    tok = _chatml(["<image>", "<video>"], {"image_token": "<image>", "video_token": "<video>"})
    pinpoints = [[32, 32], [32, 64], [64, 32], [64, 64]]
    images = tf.LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints)
    processor = tf.LlavaOnevisionProcessor(
        images, tok, NoVideos(), num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )  # fmt: skip
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(image_size=32, patch_size=8, **VISION),
        text_config=tf.Qwen2Config(vocab_size=len(tok), **TEXT), image_token_index=_id(tok, "<image>"),
        video_token_index=_id(tok, "<video>"), image_grid_pinpoints=pinpoints, vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    return Tiny(tf.LlavaOnevisionForConditionalGeneration(config), processor, "<|im_end|>", ("<image>",))


def smolvlm() -> Tiny:
    special = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", "<video>"]
    roles = {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "video_token": "<video>",
        "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
    }  # fmt: skip
    tok = _chatml(special, roles)
    images = tf.SmolVLMImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = tf.SmolVLMProcessor(
        images, tok, NoVideos(), image_seq_len=4, chat_template=CHAT.replace("IMAGE", "<image>")
    )
    config = tf.SmolVLMConfig(
        image_token_id=_id(tok, "<image>"), scale_factor=2, vision_config=dict(VISION, image_size=32, patch_size=8),
        text_config=_llama(tok), tie_word_embeddings=True,
    )  # fmt: skip
    return Tiny(tf.SmolVLMForConditionalGeneration(config), processor, "<|im_end|>", ("<image>",))


def _qwen(kind: str) -> Tiny:
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    roles = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }  # fmt: skip
    tok = _chatml(special, roles)
    pixels = 16 if kind == "Qwen3VL" else 14
    images = tf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}, patch_size=pixels, merge_size=2
    )
    chat = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = getattr(tf, f"{kind}Processor")(images, tok, NoVideos(), chat_template=chat)
    ids = dict(
        image_token_id=_id(tok, "<|image_pad|>"), video_token_id=_id(tok, "<|video_pad|>"),
        vision_start_token_id=_id(tok, "<|vision_start|>"), vision_end_token_id=_id(tok, "<|vision_end|>"),
    )  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    text = dict(TEXT, vocab_size=len(tok), rope_parameters=rope, head_dim=16)
    vision = {
        "Qwen2VL": dict(depth=2, embed_dim=32, hidden_size=64, num_heads=4, patch_size=pixels),
        "Qwen2_5_VL": dict(
            depth=2, hidden_size=32, intermediate_size=64, num_heads=4, out_hidden_size=64, patch_size=pixels,
            fullatt_block_indexes=[1],
        ),
        "Qwen3VL": dict(
            depth=2, hidden_size=32, intermediate_size=64, num_heads=4, out_hidden_size=64, patch_size=pixels,
            num_position_embeddings=64, deepstack_visual_indexes=[0],
        ),
    }[kind]  # fmt: skip
    config = getattr(tf, f"{kind}Config")(text_config=text, vision_config=vision, **ids)
    return Tiny(getattr(tf, f"{kind}ForConditionalGeneration")(config), processor, "<|im_end|>", ("<|image_pad|>",))


def internvl() -> Tiny:
    special = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    roles = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tok = _chatml(special, roles)
    images = tf.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    processor = tf.InternVLProcessor(
        images, tok, NoVideos(), image_seq_length=4, chat_template=CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    )
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(image_size=[32, 32], patch_size=[8, 8], **VISION),
        text_config=tf.Qwen2Config(vocab_size=len(tok), **TEXT), image_token_id=_id(tok, "<IMG_CONTEXT>"),
        image_seq_length=4, downsample_ratio=0.5,
    )  # fmt: skip
    return Tiny(tf.InternVLForConditionalGeneration(config), processor, "<|im_end|>", ("<IMG_CONTEXT>",))


def paligemma() -> Tiny:
    tok = byte_tokenizer(["<image>"], {"image_token": "<image>"}, "</s>")
    images = tf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(images, tok)
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(image_size=32, patch_size=8, projection_dim=64, **VISION),
        text_config=tf.GemmaConfig(vocab_size=len(tok), head_dim=16, pad_token_id=0, **TEXT), projection_dim=64,
        image_token_index=_id(tok, "<image>"),
    )  # fmt: skip
    return Tiny(tf.PaliGemmaForConditionalGeneration(config), processor, "</s>", ("<image>",))


def gemma3() -> Tiny:
    special = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    roles = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tok = byte_tokenizer(special, roles, "</s>")
    images = tf.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    processor = tf.Gemma3Processor(
        images, tok, image_seq_length=4, chat_template=GEMMA.replace("IMAGE", "<start_of_image>")
    )
    config = tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(image_size=32, patch_size=8, vision_use_head=False, **VISION),
        text_config=tf.Gemma3TextConfig(vocab_size=len(tok), head_dim=16, pad_token_id=0, **TEXT),
        mm_tokens_per_image=4, boi_token_index=_id(tok, "<start_of_image>"), eoi_token_index=_id(tok, "<end_of_image>"),
        image_token_index=_id(tok, "<image_soft_token>"),
    )  # fmt: skip
    return Tiny(tf.Gemma3ForConditionalGeneration(config), processor, "<end_of_turn>", ("<image_soft_token>",))


FAMILIES: dict[str, Callable[[], Tiny]] = {
    "idefics3": idefics3,
    "llava": llava,
    "vip_llava": vip_llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "smolvlm": smolvlm,
    "qwen2_vl": lambda: _qwen("Qwen2VL"),
    "qwen2_5_vl": lambda: _qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: _qwen("Qwen3VL"),
    "internvl": internvl,
    "paligemma": paligemma,
    "gemma3": gemma3,
}


def tiny(family: str) -> Tiny:
    torch.manual_seed(0)
    checked = tf.ProcessorMixin.check_argument_for_proper_class

    def check(self, name: str, argument: object) -> object:
        return NoVideos if isinstance(argument, NoVideos) else checked(self, name, argument)

    with patch.object(tf.ProcessorMixin, "check_argument_for_proper_class", check):
        return FAMILIES[family]()
