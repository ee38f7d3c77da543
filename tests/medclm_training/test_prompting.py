"""What a model is asked: its own form of boxes, its own chat template, words for the kind of reply."""

import numpy as np
import pytest
import torch
from medclm_rows import row
from tiny_families import FAMILIES, tiny

from medclm.models.families import codec_of, family_of
from medclm.problems import DataError
from medclm.training.prompting import BRIEF, REASONED, for_model, generation_inputs

CODECS = {
    "idefics3": "plain", "smolvlm": "plain", "llava": "plain", "vip_llava": "plain", "llava_next": "plain",
    "llava_onevision": "plain", "qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_5_vl", "qwen3_vl": "qwen3_vl",
    "internvl": "internvl", "paligemma": "paligemma", "gemma3": "gemma",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_on_the_prompt_and_finds_the_box_in_its_own_form(family):
    made = tiny(family)
    assert codec_of(made.processor).name == CODECS[family]
    inputs = generation_inputs(made.processor, row(), "medium")
    assert "labels" not in inputs and inputs["input_ids"].shape[0] == 1
    text = made.processor.tokenizer.decode(inputs["input_ids"][0])
    ((_, box),) = codec_of(made.processor).decode(text, (70, 50))
    width, height = codec_of(made.processor).bin((70, 50))
    assert np.abs(np.array(box) - [7, 5, 21, 20]).max() <= max(width, height)
    assert text.count("Is ") == 1 and REASONED in text
    with torch.no_grad():
        logits = made.model(**for_model(inputs, made.model)).logits
    assert logits.isfinite().all()


def test_the_kind_of_reply_is_asked_for_in_words():
    processor = tiny("idefics3").processor
    texts = {
        stage: processor.tokenizer.decode(generation_inputs(processor, row(), stage)["input_ids"][0])
        for stage in ("easy", "medium", "hard")
    }
    assert texts["easy"] == texts["medium"] and REASONED in texts["easy"]
    assert BRIEF in texts["hard"] and REASONED not in texts["hard"]
    with pytest.raises(ValueError, match="stage: expected one of easy, medium, hard, got 'harder'"):
        generation_inputs(processor, row(), "harder")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"image": {"bytes": None, "path": None}}, "row r1: expected an embedded image, got none"),
        ({"image": {"bytes": b"no png", "path": None}}, "row r1: expected a readable image"),
        ({"question": "Is <box:3> a nodule?"}, "row r1: text: expected boxes below 1, got <box:3>"),
        ({"question": "Is <image> a nodule?"}, "row r1: expected a question without the model's image token <image>"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(more, says):
    with pytest.raises(DataError, match=says.replace("(", r"\(")):
        generation_inputs(tiny("llava").processor, row(**more), "easy")


def test_a_processor_without_a_template_is_refused_unless_its_family_is_known():
    processor = tiny("llava").processor
    processor.chat_template = None
    with pytest.raises(DataError, match="LlavaProcessor: expected a processor with a chat template"):
        generation_inputs(processor, row(), "easy")
    assert family_of(tiny("paligemma").processor).prompt is not None


def test_without_a_stage_the_question_stands_alone():
    made = tiny("idefics3")
    text = made.processor.tokenizer.decode(
        generation_inputs(made.processor, row(question="Is it CT?"), None)["input_ids"][0]
    )
    assert "Is it CT?" in text and REASONED not in text and BRIEF not in text
