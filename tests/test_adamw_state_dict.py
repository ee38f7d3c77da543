"""State dicts of optim.AdamW: with torch's, through files, bit-equal resumption, and refusals that change nothing."""

from __future__ import annotations

import copy
import io
import math
import warnings

import pytest
import safetensors
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from adamw_training import NAMES, STATE_FORMATS, everything, parameters, set_gradients, train
from contract_bits import assert_same_bits
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from fastgrad import optim
from fastgrad.optim import SGD, AdamW

RESUMED = [
    *({"state_format": name, "factored": factored} for name in STATE_FORMATS for factored in (False, True)),
    {"state_format": "int8", "betas": (0.0, 0.99), "factored": True},
    {"state_format": "bf16", "normalize": "autoscale", "grad_format": "fp8_e4m3", "stats": "lagged"},
    {"normalize": "clip", "max_norm": 0.1, "grad_format": "fp4_e2m1", "compensate": "q"},
]


def name_of(options: dict) -> str:
    return " ".join(map(str, options.values()))


class Model(nn.Module):
    """The tests' parameters, by name."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        for name, p in zip(NAMES, parameters(torch.bfloat16, seed), strict=True):
            self.register_parameter(name, p)


def pair(options: dict, seed: int = 0):
    model = Model(seed)
    params = list(model.parameters())
    return model, params, AdamW(params, 1e-3, **options)


# With torch


@pytest.mark.parametrize("betas", ((0.9, 0.99), (0.0, 0.99)), ids=("betas", "no momentum"))
@pytest.mark.parametrize("implementation", ("foreach", "fused"))
def test_torchs_state_continues_here(implementation, betas):
    """The same moments and ages; the trajectory goes on within float32's rounding."""
    ours, theirs = parameters(), parameters()
    before = torch.optim.AdamW(theirs, 1e-3, betas, weight_decay=0.1, **{implementation: True})
    train(before, theirs, range(3))
    for p, q in zip(ours, theirs, strict=True):
        p.data.copy_(q)
    after = AdamW(ours, lr=99.0)
    after.load_state_dict(before.state_dict())
    group = after.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, betas, 0.1)
    for p, q in zip(ours, theirs, strict=True):
        assert int(after.state[p]["step"]) == 3
        names = ("exp_avg", "exp_avg_sq") if betas[0] else ("exp_avg_sq",)
        assert_same_bits([after.state[p][n] for n in names], [before.state[q][n] for n in names], "loaded")
        assert "exp_avg" in names or "exp_avg" not in after.state[p]
    train(before, theirs, range(3, 8))
    train(after, ours, range(3, 8))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("implementation", ("foreach", "fused"))
def test_our_state_continues_at_torchs_and_comes_back(implementation):
    ours, theirs, straight = parameters(), parameters(), parameters()
    before, uninterrupted = AdamW(ours, 1e-3), AdamW(straight, 1e-3)
    train(before, ours, range(3))
    for p, q in zip(ours, theirs, strict=True):
        q.data.copy_(p)
    between = torch.optim.AdamW(theirs, **{implementation: True})
    between.load_state_dict(copy.deepcopy(before.state_dict()))
    train(between, theirs, range(3, 6))
    for p, q in zip(ours, theirs, strict=True):
        p.data.copy_(q)
    back = AdamW(ours, lr=99.0)
    back.load_state_dict(between.state_dict())
    train(back, ours, range(6, 9))
    train(uninterrupted, straight, range(9))
    assert all(int(back.state[p]["step"]) == 9 for p in ours)
    for p, q in zip(ours, straight, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


# Through files


def through_torch_save(state: dict, folder) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_safetensors(state: dict, folder) -> dict:
    tensors, metadata = optim.flatten_state_dict(state)
    safetensors.torch.save_file(tensors, folder / "optimizer.safetensors", metadata)
    with safetensors.safe_open(folder / "optimizer.safetensors", "pt") as file:
        metadata = file.metadata()
    return optim.unflatten_state_dict(safetensors.torch.load_file(folder / "optimizer.safetensors"), metadata)


FILES = {"torch.save": through_torch_save, "safetensors": through_safetensors}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("options", RESUMED, ids=name_of)
def test_resumes_bit_equal(options, file, tmp_path):
    """One parameter without gradient in the last step before: lagged statistics and compensation have no row of it."""
    model, params, optimizer = pair(options)
    train(optimizer, params, range(3))
    set_gradients(params, 3)
    params[3].grad = None
    optimizer.step()
    saved = FILES[file](optimizer.state_dict(), tmp_path)
    weights = copy.deepcopy(model.state_dict())
    expected = train(optimizer, params, range(4, 7))
    other, others, second = pair(options, seed=1)
    train(second, others, range(5))  # all of this is replaced
    other.load_state_dict(weights)
    second.load_state_dict(saved)
    assert_same_bits(train(second, others, range(4, 7)), expected, name_of(options))


@pytest.mark.parametrize("kind", ("nested", "flattened", "whole"))
@pytest.mark.parametrize("options", RESUMED, ids=name_of)
def test_resumes_bit_equal_through_distributed_checkpoints(options, kind, tmp_path):
    """They make states by a step with a learning rate of 0, which leaves the weights as they are, bit for bit."""
    how = StateDictOptions(flatten_optimizer_state_dict=kind == "flattened", full_state_dict=kind == "whole")
    model, params, optimizer = pair(options)
    train(optimizer, params, range(2))
    set_gradients(params, 2)
    params[3].grad = None
    optimizer.step()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process")
        dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer, options=how)}, checkpoint_id=tmp_path)
        weights = copy.deepcopy(model.state_dict())
        expected = train(optimizer, params, range(3, 6))
        other, others, second = pair(options)
        other.load_state_dict(weights)
        before = [p.detach().clone() for p in others]
        state = {"optimizer": get_optimizer_state_dict(other, second, options=how)}
        assert_same_bits([p.detach() for p in others], before, "the step with a learning rate of 0")
        dcp.load(state, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, second, state["optimizer"], options=how)
    assert_same_bits(train(second, others, range(3, 6)), expected, f"{name_of(options)}, {kind}")


@pytest.mark.parametrize("options", (dict(grad_format="int8"), dict(grad_format="int8", stats="lagged")), ids=name_of)
def test_saving_an_optimizer_without_states_changes_nothing(options):
    """Distributed checkpoints take their step with a learning rate of 0 each time they save a plain SGD."""
    results = []
    for saved in (False, True):
        model = Model()
        optimizer = SGD(model.parameters(), 0.1, weight_rounding="stochastic", normalize="znorm", **options)
        for step in range(4):
            if saved:
                get_optimizer_state_dict(model, optimizer)
            set_gradients(list(model.parameters()), step)
            optimizer.step()
            optimizer.zero_grad()
        results.append([p.detach() for p in model.parameters()])
    assert_same_bits(results[1], results[0], "saved at every step")


# Flat state dicts


def test_flat_state_dicts_are_equal_ones():
    """Tensors, numbers of any size, tuples, keys that are numbers, infinities; a learning rate that is a tensor."""
    state = {
        "state": {0: {"step": torch.tensor(3.0), "codes": torch.arange(6, dtype=torch.uint8)[::2]}, "a.b": {}},
        "param_groups": [{"lr": torch.tensor(0.1), "betas": (0.9, 1e-300), "params": [0, 2**40], "on": True}],
        "none": None,
        "text": 'quoted "text"',
        "bound": math.inf,
    }
    tensors, metadata = optim.flatten_state_dict(state)
    assert sorted(tensors) == ["param_groups.0.lr", "state.0.codes", "state.0.step"]
    assert all(t.is_contiguous() for t in tensors.values())
    assert all(isinstance(v, str) for item in metadata.items() for v in item)
    back = optim.unflatten_state_dict(tensors, metadata)
    assert_same_bits([back["state"][0]["codes"]], [state["state"][0]["codes"].contiguous()], "codes")
    for s in (state, back):
        s["state"].pop(0)
        assert isinstance(s["param_groups"][0].pop("lr"), torch.Tensor)
    assert back == state and type(back["param_groups"][0]["betas"]) is tuple


def test_flat_state_dicts_refuse_what_they_cannot_hold():
    with pytest.raises(TypeError, match=r"^a\.1: expected a tensor, number.*got function"):
        optim.flatten_state_dict({"a": [1, lambda: None]})
    with pytest.raises(TypeError, match="got tuple"):
        optim.flatten_state_dict({(1, 2): 3})
    with pytest.raises(ValueError, match=r"a\.b\.c: two tensors"):
        optim.flatten_state_dict({"a": {"b.c": torch.ones(1)}, "a.b": {"c": torch.ones(1)}})
    tensors, metadata = optim.flatten_state_dict({"a": torch.ones(1), "b": torch.ones(2)})
    with pytest.raises(ValueError, match="tensors: lack 'b'"):
        optim.unflatten_state_dict({"a": tensors["a"]}, metadata)
    for wrong in (None, {}, {"format": "pt"}):
        with pytest.raises(ValueError, match="metadata: expected"):
            optim.unflatten_state_dict(tensors, wrong)


# Refusals


def without(key: str):
    def change(state: dict) -> None:
        del state["state"][1][key]

    return change


def with_state(name: str, value, key: int = 1):
    def change(state: dict) -> None:
        state["state"][key][name] = value

    return change


def in_group(**changed):
    def change(state: dict) -> None:
        state["param_groups"][0].update(changed)

    return change


def in_progress(name: str, value=...):
    def change(state: dict) -> None:
        if value is ...:
            del state["param_groups"][0]["fastgrad"][name]
        else:
            state["param_groups"][0]["fastgrad"][name] = value

    return change


def drop(*keys):
    def change(state: dict) -> None:
        for key in keys:
            del state["param_groups"][0][key]

    return change


def without_progress(*changes):
    def change(state: dict) -> None:
        del state["param_groups"][0]["fastgrad"]
        for each in changes:
            each(state)

    return change


def one_group_more(state: dict) -> None:
    last = state["param_groups"][0]["params"].pop()
    state["param_groups"].append({**state["param_groups"][0], "params": [last]})


U8, I8 = torch.uint8, torch.int8
UNFIT = {
    "shape": (with_state("exp_avg", torch.zeros(40, 64, dtype=I8)), r"exp_avg of .*\[1\] \[40, 128\]: expected"),
    "transposed": (with_state("exp_avg_sq", torch.zeros(128, 40, dtype=U8)), r"exp_avg_sq of .*\[40, 128\], got"),
    "type": (with_state("exp_avg_sq", torch.zeros(40, 128)), "expected torch.uint8 .* got torch.float32"),
    "scales": (with_state("exp_avg_scale", torch.ones(40, 2)), r"exp_avg_scale of .*expected torch.float32 \[40, 1\]"),
    "not a tensor": (with_state("step", 3), "step of .* expected a tensor, got int"),
    "missing": (without("exp_avg_sq_scale"), r"lacks 'exp_avg_sq_scale'; expected step, exp_avg"),
    "unknown": (with_state("max_exp_avg_sq", torch.zeros(1)), "has max_exp_avg_sq; expected step"),
    "last of them": (with_state("exp_avg", torch.zeros(3), key=4), r"exp_avg of .*\[4\] \[40\]"),
    "parameters": (lambda state: state["param_groups"][0]["params"].pop(), "expected 5 parameters, got 4"),
    "groups": (one_group_more, r"expected groups of \[5\] parameters, got \[4, 1\]"),
    "foreign state": (lambda state: state["state"].update({9: {}}), "has a state 9"),
    "options": (drop("betas", "eps"), r"param_groups\[0\] lacks betas, eps"),
    "betas": (in_group(betas=(0.9, 1.5)), r"param_groups\[0\]: betas\[1\]: expected a number in"),
    "amsgrad": (in_group(amsgrad=True), "amsgrad: expected False"),
    "Adam": (in_group(decoupled_weight_decay=False), "decoupled_weight_decay: expected True"),
    "format": (in_progress("state_format", "int4"), "expected state_format 'int8', .* got 'int4'"),
    "factored": (in_progress("factored", True), "expected factored False, .* got True"),
    "progress": (in_progress("alpha_state"), "'fastgrad' lacks alpha_state"),
    "alpha": (in_progress("alpha_state", torch.zeros(3)), "alpha_state of 'fastgrad': expected 2 numbers"),
    "table": (in_progress("table", torch.zeros(4, 16)), "table of 'fastgrad': expected at least 6 rows of 16"),
    "torch's": (without_progress(with_state("exp_avg", torch.zeros(40, 128))), "exp_avg of .* got torch.float32"),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_does_not_fit_is_refused_and_changes_nothing(unfit):
    options = dict(state_format="int8", normalize="autoscale", stats="lagged")
    change, message = UNFIT[unfit]
    _, params, optimizer = pair(options)
    train(optimizer, params, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    change(state)

    _, others, second = pair(options, seed=1)
    second.param_groups[0]["lr"] = 0.5
    train(second, others, range(3))
    before, tensors = everything(second, others), [second.state[p]["exp_avg"] for p in others]
    saved = copy.deepcopy(second.state_dict())
    with pytest.raises((TypeError, ValueError), match=message):
        second.load_state_dict(state)
    assert_same_bits(everything(second, others), before, unfit)
    assert all(second.state[p]["exp_avg"] is t for p, t in zip(others, tensors, strict=True))
    after, expected = (optim.flatten_state_dict(s) for s in (second.state_dict(), saved))
    assert after[1] == expected[1] and list(after[0]) == list(expected[0])
    assert_same_bits(list(after[0].values()), list(expected[0].values()), unfit)
    # and it goes on as if nothing had been tried
    _, again, third = pair(options, seed=1)
    third.param_groups[0]["lr"] = 0.5
    train(third, again, range(3))
    assert_same_bits(train(second, others, range(3, 5)), train(third, again, range(3, 5)), "afterwards")


def test_states_of_another_format_are_refused():
    """Between all formats that differ in what they keep."""
    for name in STATE_FORMATS:
        _, params, optimizer = pair({"state_format": name})
        train(optimizer, params, range(1))
        state = optimizer.state_dict()
        for other in STATE_FORMATS:
            if other != name:
                _, _, second = pair({"state_format": other})
                with pytest.raises(ValueError, match=f"expected state_format '{other}'"):
                    second.load_state_dict(state)
                assert not second.state


def test_sgds_state_is_not_adamws():
    params, others = parameters(), parameters()
    for momentum in (0.0, 0.9):
        sgd, adamw = SGD(params, 0.1, momentum=momentum), AdamW(others)
        train(sgd, params, range(1))
        with pytest.raises(ValueError, match=r"param_groups\[0\] lacks betas, eps"):
            adamw.load_state_dict(sgd.state_dict())
        train(adamw, others, range(1))
        with pytest.raises(ValueError, match="lacks momentum, dampening"):
            sgd.load_state_dict(adamw.state_dict())


def test_another_numerics_version_warns_and_loads():
    _, params, optimizer = pair({"state_format": "int8"})
    train(optimizer, params, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["fastgrad"]["numerics_version"] = 0
    _, _, second = pair({"state_format": "int8"})
    with pytest.warns(UserWarning, match="made with numerics version 0, this is version"):
        second.load_state_dict(state)
    assert second.state_dict()["param_groups"][0]["fastgrad"]["step"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.load_state_dict(optimizer.state_dict())


def test_a_loaded_state_is_a_copy():
    """Of the saved tensors, and of their memory format nothing is taken over."""
    _, params, optimizer = pair({})
    train(optimizer, params, range(1))
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].to(memory_format=torch.channels_last)
    _, others, second = pair({})
    second.load_state_dict(state)
    assert second.state[others[0]]["exp_avg"].is_contiguous()
    before = [t.clone() for s in optimizer.state.values() for t in s.values()]
    train(second, others, range(1, 3))
    assert_same_bits([t for s in optimizer.state.values() for t in s.values()], before, "the saved")


@pytest.mark.parametrize("options", (dict(state_format="int8"), dict(state_format="bf16", factored=True)), ids=name_of)
def test_codes_and_means_know_the_memory_format(options):
    """They lie in the storage order of their parameter; in another they would be those of other elements."""

    def made(memory_format):
        p = nn.Parameter(torch.ones(32, 32, 3, 3).to(memory_format=memory_format))
        return [p], AdamW([p], 1e-3, **options)

    formats = torch.contiguous_format, torch.channels_last
    for here in formats:
        params, optimizer = made(here)
        train(optimizer, params, range(2))
        state, weight = copy.deepcopy(optimizer.state_dict()), params[0].detach().clone()
        expected = train(optimizer, params, range(2, 4))
        for there in formats:
            others, second = made(there)
            others[0].data.copy_(weight)
            if here != there:
                with pytest.raises(ValueError, match=r"params'\]\[0\].*memory format"):
                    second.load_state_dict(state)
                continue
            second.load_state_dict(state)
            assert_same_bits(train(second, others, range(2, 4)), expected, str(here))
            second.load_state_dict(state)
            others[0].data = others[0].data.to(memory_format=formats[here == formats[0]])
            with pytest.raises(ValueError, match=r"^states: .*memory format"):
                train(second, others, range(4, 5))


def test_options_of_a_checkpoint_are_taken():
    """As torch does: the loaded groups replace those given."""
    _, params, optimizer = pair({"betas": (0.8, 0.9)})
    train(optimizer, params, range(1))
    _, others, second = pair({"betas": (0.1, 0.2)})
    second.load_state_dict(optimizer.state_dict())
    assert second.param_groups[0]["betas"] == (0.8, 0.9)
    assert second.param_groups[0]["params"][0] is others[0]
