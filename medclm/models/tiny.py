"""A random Idefics3 of 0.4 million parameters, a token a byte: what tests and demonstrations train in seconds."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

SIDE, PATCH, SHUFFLE = 64, 8, 2  # pixels, pixels, patches a side that become one token: 4 x 4 tokens an image
_END, _IMAGE, _AROUND, _GLOBAL = "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", _END, _AROUND, _IMAGE, _GLOBAL)
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] | capitalize }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>Assistant: {% endif %}"
)


def tiny_model(seed: int = 0) -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    """Equal seeds, equal weights."""
    tokenizer = _bytes()
    size = {"longest_edge": SIDE}
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer,
        image_seq_len=(SIDE // PATCH // SHUFFLE) ** 2,
        chat_template=_CHAT,
    )
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
        scale_factor=SHUFFLE,
        tie_word_embeddings=True,
        vision_config=dict(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
            pad_token_id=0, bos_token_id=1, eos_token_id=tokenizer.eos_token_id,
        ),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Idefics3ForConditionalGeneration(config)
    return model, processor


def _bytes() -> PreTrainedTokenizerFast:
    vocabulary = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(_SPECIAL))
    roles = {
        "image_token": _IMAGE, "fake_image_token": _AROUND, "global_image_token": _GLOBAL,
        "end_of_utterance_token": _END,
    }  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token=_END, unk_token="<unk>",
        extra_special_tokens=roles,
    )  # fmt: skip
