"""A teacher on this machine: a tiny random model of the real architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from medclm_linked import linked_case

from medclm.problems import DataError, Problems
from medclm.questions import Prompt, QuestionSettings, Rationales, exchanges, teacher
from medclm.questions.local_model import TransformersTeacher

pytest.importorskip("transformers", reason="transformers is not installed: no local teacher")

SIDE, PATCH, FACTOR = 64, 16, 2
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<end>", "<fake>", "<image>", "<global>")
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
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

    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<end>",
        unk_token="<unk>",
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake>",
            "global_image_token": "<global>",
            "end_of_utterance_token": "<end>",
        },
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    processor = Idefics3Processor(
        images, tokenizer, image_seq_len=(SIDE // PATCH) ** 2 // FACTOR**2, chat_template=CHAT
    )
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=FACTOR,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=tokenizer.eos_token_id,
        ),
    )
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("model") / "tiny"
    Idefics3ForConditionalGeneration(config).save_pretrained(made)
    processor.save_pretrained(made)
    return made


def test_model_answers_the_same_twice_and_sees_the_picture(folder: Path) -> None:
    asked = teacher(f"transformers:{folder}")
    asked.max_new_tokens = 6
    first = asked.ask(Prompt("What is it?", np.zeros((40, 50), np.uint8)))
    assert isinstance(first, str) and "What is it?" not in first
    assert asked.ask(Prompt("What is it?", np.zeros((40, 50), np.uint8))) == first
    assert (asked.name, asked.on_machine) == ("tiny", True)


def test_random_model_falls_back_to_the_template(folder: Path, tmp_path: Path) -> None:
    asked = TransformersTeacher(str(folder), max_new_tokens=4)
    linked = linked_case(("nodule", (30.0, 20.0, 60.0, 40.0), "left lung"))
    problems = Problems()
    for each in exchanges(linked, None, QuestionSettings(kinds=("what",))):
        made = Rationales(asked, tmp_path).of(each, linked, np.zeros((300, 300), np.uint8), problems)
        assert made == each
    assert sum(problems.counts.values()) == 2


def test_folder_without_a_model_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an image-text model"):
        TransformersTeacher(str(tmp_path)).ask(Prompt("?", np.zeros((4, 4), np.uint8)))
