"""The losses of places, and the ops between the blocks."""

import math

import pytest
import torch
from medclm_rows import row
from tiny_families import tiny

from fastgrad.integrations.causal_lm import causal_lm_loss
from medclm.models.loading import Loaded
from medclm.models.tiny import tiny_model
from medclm.problems import DataError
from medclm.training.auxiliary import (
    Localizers,
    attention_loss,
    blurred,
    box_mask,
    box_token_loss,
    boxes_about,
    grounding_loss,
)
from medclm.training.backward import RoundedBackward, language_blocks
from medclm.training.examples import ExampleMaker, collate
from medclm.training.prompting import for_model


def test_the_mask_of_a_box_is_the_cells_that_it_overlaps():
    found = box_mask([(0.26, 0.0, 0.51, 0.25)], 4)
    assert found.tolist() == [[0, 1, 1, 0], [0] * 4, [0] * 4, [0] * 4]
    assert box_mask([(0.5, 0.5, 0.5, 0.5)], 4).sum() == 1  # a box without area still has a cell
    assert box_mask([(0.0, 0.0, 1.0, 1.0)], 4).sum() == 16
    assert box_mask([(0.0, 0.0, 0.2, 0.2), (0.9, 0.9, 1.0, 1.0)], 4).sum() == 2


def test_the_blurred_mask_is_a_distribution_around_the_box():
    soft = blurred(box_mask([(0.5, 0.5, 0.6, 0.6)], 24))
    assert soft.sum() == pytest.approx(1)
    assert soft[12, 12] > soft[12, 16] > 0 == soft[0, 0]
    # By hand, of a single cell: the kernel itself.
    single = blurred(box_mask([(0.5, 0.5, 0.51, 0.51)], 24))
    assert float(single[12, 15] / single[12, 12]) == pytest.approx(math.exp(-9 / 18))


def test_boxes_are_those_that_the_reasoning_names():
    one = row(cot="A nodule at <box:1>.", boxes=[[0, 0, 7, 5], [7, 5, 14, 10]], labels=["mass", "nodule"])
    assert boxes_about(one, "medium") == [pytest.approx((0.1, 0.1, 0.2, 0.2))]
    assert boxes_about(one, "hard") == []


@pytest.mark.parametrize("class_token", [False, True])
def test_attention_on_the_box_costs_nothing_and_elsewhere_much(class_token):
    boxes = [[(0.0, 0.0, 0.2, 0.2)], []]
    wanted = blurred(box_mask(boxes[0], 8)).flatten()

    def maps(of_first: torch.Tensor) -> torch.Tensor:
        n = 64 + class_token
        made = torch.full((2, 3, n, n), 1 / n)
        if class_token:
            made[0, :, 0, 1:], made[0, :, 0, 0] = of_first, 0.0
        else:
            made[0] = of_first
        return made.requires_grad_()

    assert attention_loss(maps(wanted), boxes).item() == pytest.approx(0, abs=1e-5)
    flat = maps(torch.full((64,), 1 / 64))
    loss = attention_loss(flat, boxes)
    expected = float((wanted * (wanted.clamp(min=1e-12) * 64).log()).sum())
    assert loss.item() == pytest.approx(expected, rel=1e-4) and expected > 0.3
    loss.backward()
    inside = flat.grad[0, 0, 0, 1:] if class_token else flat.grad[0, 0, 0]
    assert inside[0] < 0 < inside[63]  # descent moves attention to the box
    assert not flat.grad[1].any()  # the sample without boxes
    assert attention_loss(maps(wanted), [[], []]).item() == 0


def test_grounding_pulls_the_features_of_the_box_to_the_words():
    text = torch.tensor([1.0, 0.0])
    cells = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
    assert grounding_loss([cells], [text], [[(0.0, 0.0, 0.4, 0.4)]]).item() == pytest.approx(0)
    loss = grounding_loss([cells], [text], [[(0.6, 0.0, 1.0, 0.4)]])
    assert loss.item() == pytest.approx(1)
    loss.backward()
    assert cells.grad[1, 0] < 0 and not cells.grad[0].any() and not cells.grad[2:].any()
    with pytest.raises(DataError, match="expected a square grid of image tokens, got 3"):
        grounding_loss([cells[:3]], [text], [[(0.0, 0.0, 1.0, 1.0)]])


def test_box_token_loss_is_the_mean_over_tokens_that_write_boxes():
    losses = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert float(box_token_loss(losses, torch.tensor([[False, False, True, True]]))) == 2.5  # those before them
    assert float(box_token_loss(losses, torch.zeros(1, 4, dtype=torch.bool))) == 0


def batch_of(loaded: Loaded):
    maker = ExampleMaker(loaded.processor)
    one = row(cot="A nodule lies at <box:0>.", answer="Yes.", organs=["lung"])
    return collate([maker.example(one, "easy"), maker.example(one, "hard")], 0)


def test_the_losses_of_a_model_reach_its_vision_tower():
    loaded = Loaded(*tiny_model())
    localizers = Localizers(loaded, attention=0.5, grounding=0.0)
    batch = batch_of(loaded)
    causal_lm_loss(loaded.model, labels=batch.labels, reduction="none", **for_model(batch.inputs, loaded.model))
    localizers.loss(batch).backward()
    tower = loaded.model.model.vision_model
    assert tower.encoder.layers[-1].self_attn.q_proj.weight.grad.abs().max() > 0
    assert loaded.model.model.text_model.layers[0].mlp.up_proj.weight.grad is None
    localizers.remove()
    localizers = Localizers(loaded, attention=0.0, grounding=0.5)
    loaded.model.zero_grad()
    causal_lm_loss(loaded.model, labels=batch.labels, reduction="none", **for_model(batch.inputs, loaded.model))
    loss = localizers.loss(batch)
    assert 0 < loss.item() < 1
    loss.backward()
    assert loaded.model.model.connector.modality_projection.proj.weight.grad.abs().max() > 0


def test_models_without_such_things_are_refused():
    made = tiny("llava")
    with pytest.raises(DataError, match="shows the whole picture; this one cuts its middle out"):
        Localizers(Loaded(made.model, made.processor), attention=1.0, grounding=0.0)
    made = tiny("idefics3")  # cuts an image into tiles
    loaded = Loaded(made.model, made.processor)
    localizers = Localizers(loaded, attention=1.0, grounding=0.0)
    batch = batch_of(loaded)
    causal_lm_loss(loaded.model, labels=batch.labels, reduction="none", **for_model(batch.inputs, loaded.model))
    with pytest.raises(DataError, match="expected one attention map an image, got 10 for 2"):
        localizers.loss(batch)


def gradients(model, batch, format: str, step: int = 3) -> tuple[torch.Tensor, dict, float]:
    model.zero_grad()
    rounded = None if format == "none" else RoundedBackward(model, format, seed=1)
    if rounded is not None:
        rounded.begin(step)
    losses = causal_lm_loss(model, labels=batch.labels, reduction="none", **for_model(batch.inputs, model))
    losses.sum().backward()
    q = 1.0 if rounded is None else rounded.q_k()
    if rounded is not None:
        rounded.remove()
    return losses.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}, q


def test_rounding_between_blocks_leaves_the_forward_and_changes_the_backward_by_noise_alone():
    loaded = Loaded(*tiny_model())
    model, batch = loaded.model, batch_of(loaded)
    losses, exact, _ = gradients(model, batch, "none")
    names = list(model.state_dict())
    again, rounded, q = gradients(model, batch, "fp8_e4m3")
    assert torch.equal(losses, again) and list(model.state_dict()) == names
    assert q != 1 and q == pytest.approx(1, abs=0.02)
    first = "model.text_model.layers.0.mlp.up_proj.weight"
    last = "model.text_model.layers.1.mlp.down_proj.weight"
    assert torch.nn.functional.cosine_similarity(exact[first].flatten(), rounded[first].flatten(), 0) > 0.98
    assert not torch.equal(exact[first], rounded[first]) and not torch.equal(exact[last], rounded[last])
    # The same step repeats its noise; the mean over steps comes nearer to the exact gradient than each.
    _, repeated, _ = gradients(model, batch, "fp8_e4m3")
    assert all(torch.equal(rounded[name], repeated[name]) for name in rounded)
    mean = torch.stack([gradients(model, batch, "fp8_e4m3", step)[1][first] for step in range(16)]).mean(0)
    one, many = ((each - exact[first]).norm() for each in (rounded[first], mean))
    assert many < 0.45 * one  # 1/4 for independent noise


def test_every_family_has_language_blocks():
    for family in ("llava", "smolvlm", "qwen2_vl", "qwen3_vl", "internvl", "paligemma", "gemma3"):
        assert len(language_blocks(tiny(family).model)) == 2
