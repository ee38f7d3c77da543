"""A model's replies: those of a batch are those of its rows alone, greedy whatever the checkpoint says."""

import pytest
import torch
from benchmark_files import picture
from PIL import Image
from tiny_families import FAMILIES, tiny

from medclm.evaluation.answering import ModelAnswers, checkpoint_of, collate
from medclm.evaluation.prompts import Asked
from medclm.models.loading import Loaded
from medclm.problems import DataError


def rows(folder, sizes=((48, 40), (90, 30), (33, 64))):
    return [
        {
            "id": str(n), "image": Image.open(picture(folder / f"{n}.png", n, size)).convert("RGB"), "question": "",
            "boxes": [], "labels": [], "width": size[0], "height": size[1],
        }
        for n, size in enumerate(sizes)
    ]  # fmt: skip


ASKED = (Asked("Is it?", "hard", 6), Asked("What is seen in this picture of a lung?", "easy", 9), Asked("CT?", None, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_is_its_rows_one_at_a_time(family, tmp_path):
    made = tiny(family)
    answers = ModelAnswers(family, Loaded(made.model.float(), made.processor))
    together = answers(rows(tmp_path), ASKED)
    alone = [answers([row], [each])[0] for row, each in zip(rows(tmp_path), ASKED, strict=True)]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert [reply.tokens for reply in together] == [reply.tokens for reply in alone]
    assert all(reply.tokens <= each.tokens for reply, each in zip(together, ASKED, strict=True))
    assert any(reply.tokens for reply in together)


def test_sampling_and_penalties_of_the_checkpoint_are_not_used(tmp_path):
    made = tiny("idefics3")
    answers = ModelAnswers("m", Loaded(made.model.float(), made.processor))
    before = answers(rows(tmp_path), ASKED)
    made.model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=2)
    assert answers(rows(tmp_path), ASKED) == before


def test_reply_ends_at_any_token_that_ends_one(tmp_path):
    made = tiny("idefics3")
    answers = ModelAnswers("m", Loaded(made.model.float(), made.processor))
    (long,) = answers(rows(tmp_path)[:1], [Asked("Is it?", "hard", 8)])
    ids = made.processor.tokenizer(long.text, add_special_tokens=False)["input_ids"]
    assert long.tokens == 8 and ids
    made.model.generation_config.eos_token_id = [ids[0], made.processor.tokenizer.eos_token_id]
    assert answers(rows(tmp_path)[:1], [Asked("Is it?", "hard", 8)])[0].tokens < 8


def test_boxes_are_read_in_the_model_s_own_form(tmp_path, monkeypatch):
    made = tiny("qwen2_vl")
    answers = ModelAnswers("m", Loaded(made.model.float(), made.processor))
    said = "<|box_start|>(500,0),(1000,500)<|box_end|>"
    ids = made.processor.tokenizer(said, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(
        made.model, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor([ids])], dim=1)
    )
    (reply,) = answers(rows(tmp_path)[:1], [Asked("Where?", "easy", len(ids))])
    assert reply.boxes == ((24.0, 0.0, 48.0, 20.0),)  # of an image of 48 x 40, though the tokens are special


def test_what_goes_with_pixels_is_filled_up_behind_and_with_tokens_before():
    first = {
        "input_ids": torch.tensor([[5, 6]]),
        "attention_mask": torch.ones(1, 2),
        "pixels": torch.ones(1, 1, 3, 2, 2),
    }
    second = {"input_ids": torch.tensor([[7]]), "attention_mask": torch.ones(1, 1), "pixels": torch.ones(1, 2, 3, 2, 1)}
    found = collate([first, second], pad=9)
    assert found["input_ids"].tolist() == [[5, 6], [9, 7]] and found["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert found["pixels"].shape == (2, 2, 3, 2, 2) and found["pixels"].sum() == 12 + 12


def test_fingerprint_is_that_of_the_weights_wherever_they_lie(tmp_path):
    made = tiny("idefics3")
    before = ModelAnswers("a", Loaded(made.model, made.processor)).fingerprint
    assert ModelAnswers("b", Loaded(made.model, made.processor)).fingerprint == before
    made.model.save_pretrained(tmp_path / "run" / "checkpoint")
    made.processor.save_pretrained(tmp_path / "run" / "checkpoint")
    assert checkpoint_of(str(tmp_path / "run")) == str(tmp_path / "run" / "checkpoint")
    loaded = ModelAnswers.load(str(tmp_path / "run"), device="cpu", dtype="float32")
    again = ModelAnswers.load(str(tmp_path / "run" / "checkpoint"), device="cpu", dtype="float32")
    assert loaded.fingerprint == again.fingerprint
    with torch.no_grad():
        next(loaded.loaded.model.parameters()).view(-1)[0] += 1e-3
    assert ModelAnswers("c", loaded.loaded).fingerprint != again.fingerprint


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path):
    with pytest.raises(DataError, match="expected a checkpoint"):
        ModelAnswers.load(str(tmp_path), device="cpu", dtype="float32")
    with pytest.raises(DataError, match="dtype: expected float32 or bfloat16, got 'int3'"):
        ModelAnswers.load("tiny", device="cpu", dtype="int3")
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="device: expected cpu"):
            ModelAnswers.load("tiny", device="cuda", dtype="float32")
