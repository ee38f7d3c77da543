"""What a Config refuses, what it says of itself, and its learning rates."""

import pytest

from fastgrad.cifar.config import Config, documented_fields
from fastgrad.cifar.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"epochs": 1.5}, "epochs: expected int; got 1.5"),
        ({"epochs": True}, "epochs: expected int; got True"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"lr": float("nan")}, "lr: expected a positive number"),
        ({"momentum": 1.0}, "momentum: expected a number in"),
        ({"weight_decay": -1.0}, "weight_decay: expected at least 0"),
        ({"normalize": "zscore"}, "normalize: expected 'centre', 'znorm'.* or None; got 'zscore'"),
        ({"grad_format": "fp3"}, "grad_format: expected 'bf16'"),
        ({"model": "lenet"}, "model: expected one of resnet20"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov: needs momentum"),
        ({"optimizer": "adamw"}, "optimizer: expected 'sgd', 'adam'"),
        ({"optimizer": "adam", "nesterov": True}, "belong to the step of --optimizer sgd"),
        ({"optimizer": "adam", "grad_format": "bf16", "compensate": "q"}, "belong to the step of --optimizer sgd"),
        ({"optimizer": "adam", "nonfinite": "skip"}, "Adam cannot skip a step"),
        ({"compile": True, "backward_format": "bf16"}, "not treated inside a compiled network"),
        ({"scale": "tensor"}, "give grad_format too"),
        ({"block": 31}, "block: expected 16, 32"),
    ],
)
def test_bad_option_is_refused_by_name(options, message):
    with pytest.raises(UsageError, match=message):
        Config(**options)


def test_every_field_is_documented():
    assert all(text for _, text in documented_fields().values())


def test_whole_numbers_are_good_floats():
    assert Config(lr=1).lr == 1


def test_treatment_in_words():
    assert Config().treatment == "none"
    config = Config(normalize="autoscale", grad_format="fp4_e2m1", scale="block", block=16, compensate="q",
                    backward_format="fp8_e5m2")  # fmt: skip
    assert config.treatment == (
        "autoscale(ratio_first), fp4_e2m1 stochastic, blocks of 16, compensated, backward fp8_e5m2"
    )


def test_smoothing_follows_the_augmentation_unless_given():
    assert Config().smoothing == 0 and Config(augment="strong").smoothing == 0.1
    assert Config(augment="strong", label_smoothing=0.0).smoothing == 0


def test_learning_rate_rises_then_falls():
    config = Config(epochs=100, lr=0.5)
    rates = [config.lr_at(step, 10) for step in range(1000)]
    assert rates[0] == 0.5 / 50 and max(rates) == rates[50] == 0.5 and rates[-1] < 1e-5
    assert rates[:50] == sorted(rates[:50]) and rates[50:] == sorted(rates[50:], reverse=True)


def test_other_schedules():
    steps = [
        Config(epochs=100, lr=1.0, schedule="multistep", warmup_epochs=0).lr_at(s, 1)
        for s in (0, 49, 50, 74, 75)
    ]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert Config(lr=1.0, schedule="constant", warmup_epochs=0).lr_at(10_000, 1) == 1.0


def test_staircase_keeps_three_quarters_after_every_three_twentieths():
    config = Config(epochs=200, lr=1.0, schedule="staircase", warmup_epochs=0)  # of 200 epochs: every 30
    rates = [config.lr_at(step, 1) for step in (0, 29, 30, 59, 60, 199)]
    assert rates == pytest.approx([1, 1, 0.75, 0.75, 0.75**2, 0.75**6])


def test_short_run_has_a_short_warm_up():
    config = Config(epochs=2, lr=1.0)
    assert max(config.lr_at(step, 10) for step in range(20)) == 1.0


def test_differences_name_fields_and_values_but_not_the_place_of_the_data():
    stored = vars(Config()) | {"lr": 0.2, "data": "elsewhere"}
    assert Config().differences(stored) == ["lr (0.2 -> 0.1)"]
