"""Token by token: what every family is trained on, and that it is what generation would go on with."""

import pytest
import torch
from medclm_rows import row
from tiny_families import FAMILIES, Tiny, tiny

from fastgrad.integrations.causal_lm import causal_lm_loss
from medclm.codecs import CODECS
from medclm.models.families import codec_of
from medclm.training.examples import ANSWER, IGNORED, REASONING, ExampleMaker, collate
from medclm.training.objective import Weights, span_loss
from medclm.training.prompting import for_model, generation_inputs

COT, SAID = "A nodule lies at <box:0>, in the lung.", "Yes, a nodule."


def full_row(**more: object) -> dict:
    return row(cot=COT, answer=SAID, **more)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request) -> tuple[str, Tiny]:
    return request.param, tiny(request.param)


def test_every_token_of_the_reply_and_no_other_is_a_label(made):
    name, model = made
    processor, tokenizer = model.processor, model.processor.tokenizer
    maker = ExampleMaker(processor)
    written = codec_of(processor).encode([7, 5, 21, 20], (70, 50), "nodule")
    lead = " " if name in ("llava", "vip_llava", "llava_next", "idefics3") else ""  # of the chat template
    reasoning, answer = f"{lead}Reasoning: A nodule lies at {written}, in the lung.\n\n", f"Answer: {SAID}{model.end}"
    both = (reasoning, answer)
    for stage, expected in {"easy": both, "medium": both, "hard": ("", lead + answer)}.items():
        example = maker.example(full_row(), stage)
        ids = example.inputs["input_ids"][0]
        prompt = generation_inputs(processor, full_row(), stage)["input_ids"][0]
        assert torch.equal(ids[: len(prompt)], prompt)  # the very tokens that generation begins with
        for place, (label, span) in enumerate(zip(example.labels.tolist(), example.spans.tolist(), strict=True)):
            inside = place >= len(prompt)
            assert (label == int(ids[place])) if inside else (label == IGNORED), place
            assert (span in (REASONING, ANSWER)) if inside else (span == 0), place
        assert tokenizer.decode(ids[example.spans == REASONING]) == expected[0]
        assert tokenizer.decode(ids[example.spans == ANSWER]) == expected[1]
        assert int(ids[-1]) == tokenizer.convert_tokens_to_ids(model.end) == maker.end_token
        pixels = torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(list(model.image_tokens))))
        assert pixels.any() and (example.labels[pixels] == IGNORED).all()
        assert tokenizer.decode(ids[example.boxes]) == ("" if stage == "hard" else written)
        for types in ("token_type_ids", "mm_token_type_ids"):
            if types in example.inputs:
                of_reply = example.inputs[types][0, len(prompt) :].unique().tolist()
                assert of_reply == [1 if name == "paligemma" else 0]


def test_padding_counts_nothing(made):
    """The losses of a batch of samples of different length and image size are those of each alone."""
    _, model = made
    maker, net = ExampleMaker(model.processor), model.model.eval()
    wide = full_row(question="Is the <box:0>, of which a longer question is asked, a nodule?")
    examples = [maker.example(full_row(), "hard"), maker.example(wide, "easy")]
    batch = collate(examples, model.processor.tokenizer.pad_token_id)
    found = losses(net, batch)
    assert (batch.labels[0, examples[0].length :] == IGNORED).all()
    assert (batch.spans[0, examples[0].length :] == 0).all()
    for i, example in enumerate(examples):
        alone = losses(net, collate([example], 0))
        torch.testing.assert_close(found[i, : example.length], alone[0, : example.length], rtol=1e-4, atol=1e-4)
        assert not found[i, example.length :].any()


@torch.no_grad()
def losses(net: torch.nn.Module, batch) -> torch.Tensor:
    return causal_lm_loss(net, labels=batch.labels, reduction="none", **for_model(batch.inputs, net))


def test_the_loss_is_that_of_plain_cross_entropy_over_each_span(made):
    _, model = made
    net, maker = model.model.eval(), ExampleMaker(model.processor)
    stages = ["easy", "hard", "medium"]
    batch = collate([maker.example(full_row(), stage) for stage in stages], model.processor.tokenizer.pad_token_id)
    inputs = for_model(batch.inputs, net)
    found = span_loss(losses(net, batch), batch.spans, stages, Weights())
    with torch.no_grad():
        logits = net(**inputs).logits.float()
    for i, stage in enumerate(stages):
        each = torch.nn.functional.cross_entropy(logits[i, :-1], batch.inputs["input_ids"][i, 1:], reduction="none")
        answer, reasoning = (each[batch.spans[i, 1:] == span].mean() for span in (ANSWER, REASONING))
        expected = answer if stage == "hard" else 0.8 * answer + 0.2 * reasoning
        torch.testing.assert_close(found.loss[i], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.answer[i], answer, rtol=1e-4, atol=1e-4)


def test_generation_goes_on_where_training_does():
    """Trained on one reply, the model writes that reply and stops."""
    model = tiny("idefics3")
    maker, net = ExampleMaker(model.processor), model.model
    batch = collate([maker.example(full_row(), "medium")], 0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(150):
        found = causal_lm_loss(net, labels=batch.labels, reduction="none", **for_model(batch.inputs, net))
        span_loss(found, batch.spans, batch.stages).loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    inputs = generation_inputs(model.processor, full_row(), "medium")
    out = net.eval().generate(
        **for_model(inputs, net), max_new_tokens=200, do_sample=False, eos_token_id=maker.end_token, pad_token_id=0
    )
    text = model.processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    reasoning = "A nodule lies at [0.100, 0.100, 0.300, 0.400], in the lung."
    assert text == f" Reasoning: {reasoning}\n\nAnswer: {SAID}{model.end}"


def test_families_that_are_not_built_here_are_known_by_name():
    """Those that the table of codecs knows but this file cannot train, with the reason."""
    untested = {
        "florence2": "an encoder-decoder, which AutoModelForImageTextToText gives no prompt to continue",
        "kosmos2": "its processor puts image positions into an input of its own (image_embeds_position_mask)",
    }
    tested = {codec_of(tiny(name).processor).name for name in FAMILIES}
    assert tested | set(untested) == set(CODECS)
