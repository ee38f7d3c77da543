"""``fastgrad.Monitor`` on a fake source whose tables are computed here, in float64, from real gradients."""

import gc
import math

import pytest
import torch
from monitor_source import QUANTITIES, Run, Source, alternating, assert_same
from torch import nn

from fastgrad.monitor import Monitor

# Values


def test_nothing_is_there_before_the_first_step(tmp_path):
    run = Run()
    monitor = Monitor(run.source, run.named, tensorboard=None)
    assert monitor.latest() == {}
    assert monitor.layers == []
    assert repr(monitor) == "Monitor(0 of 10000 steps, 0 layers, every=1)"
    assert [len(part) for part in monitor.series(None, "std")] == [0, 0]
    assert monitor.grid("std")[1].shape == (0, 0)
    assert monitor.plot(tmp_path / "figures") == []
    for suffix in ("csv", "parquet"):
        columns = Monitor.read(monitor.write(tmp_path / f"empty.{suffix}"))
        assert list(columns) == ["step", "layer", *QUANTITIES]
        assert all(len(column) == 0 for column in columns.values())


def test_series_of_a_layer_are_the_formulas_on_its_gradients():
    run = Run()
    monitor = Monitor(run.source, run.model.named_parameters())
    run.steps(0, 5)
    assert monitor.layers == list(run.named)
    assert monitor.quantities == QUANTITIES
    for name, param in run.named.items():
        got = {quantity: monitor.series(name, quantity) for quantity in QUANTITIES}
        assert got["n"][0].tolist() == [0, 1, 2, 3, 4]
        for step in range(5):
            x, y, q = run.source.gradients[step][param]
            q_k = (y @ q) / (y @ y)
            truth = {
                "n": len(x),
                "mean": x.mean(),
                "std": x.std(correction=0),
                "norm": x.norm(),
                "min": x.min(),
                "max": x.max(),
                "c": x.mean(),
                "q": q_k,
                "norm_ratio": q.norm() / y.norm(),
                "cosine": torch.cosine_similarity(y, q, dim=0),
                "noise_variance": (q - q_k * y).square().mean(),
                "zeroed": ((q == 0) & (y != 0)).sum(),
                "absmax": y.abs().max(),
            }
            for quantity, value in truth.items():
                assert got[quantity][1][step].item() == pytest.approx(float(value), rel=1e-9), (
                    quantity,
                    step,
                )


def test_latest_is_the_whole_gradient():
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.steps(0, 4)
    kept = run.source.gradients[3].values()
    x, y, q = (torch.cat([layer[i] for layer in kept]) for i in range(3))
    projections = torch.stack([(y @ q) / (y @ y) for _, y, q in kept])
    noise = torch.cat([q - (y @ q) / (y @ y) * y for _, y, q in kept])
    latest = monitor.latest()
    assert latest == pytest.approx(
        {
            "step": 3,
            "global_mean": x.mean().item(),
            "global_std": x.std(correction=0).item(),
            "global_norm": x.norm().item(),
            "alpha": x.std(correction=0).item() / run.source.first,
            "q_mean": projections.mean().item(),
            "q_min": projections.min().item(),
            "noise_variance": noise.square().mean().item(),
            "saturated": latest["saturated"],
            "zeroed": ((q == 0) & (y != 0)).sum().item(),
            "nonfinite": 0,
        },
        rel=1e-9,
    )
    assert latest["noise_variance"] == monitor.series(None, "noise_variance")[1][-1].item()
    assert monitor.series("(all)", "std")[1][-1].item() == latest["global_std"]
    assert all(type(value) in (int, float) for value in latest.values())


def test_without_quantization_nothing_shrinks():
    run = Run(quantize=False)
    monitor = Monitor(run.source, run.named)
    run.steps(0, 2)
    assert {name: monitor.latest()[name] for name in ("q_mean", "q_min", "noise_variance", "zeroed")} == {
        "q_mean": 1.0,
        "q_min": 1.0,
        "noise_variance": 0.0,
        "zeroed": 0,
    }


def test_nonfinite_elements_are_counted():
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.model(torch.ones(1, 12)).sum().backward()
    run.named["0.bias"].grad[:3] = math.nan
    run.named["4.bias"].grad[:] = math.inf
    run.source.step(0, list(run.named.values()))
    assert monitor.latest()["nonfinite"] == 7
    assert monitor.series("4.bias", "n")[1].tolist() == [0.0]
    assert monitor.series("4.bias", "std")[1].isnan().all()


def test_unknown_names_list_the_valid_ones(tmp_path):
    run = Run()
    monitor = Monitor(run.source, run.named)
    with pytest.raises(ValueError, match=r"no step was recorded yet, so there is no layer, got '0\.weight'"):
        monitor.series("0.weight", "std")
    run.step(0)
    with pytest.raises(ValueError, match=r"quantity must be one of n, mean, std, .*, k, got 'variance'"):
        monitor.series(None, "variance")
    with pytest.raises(ValueError, match="quantity must be one of n, mean"):
        monitor.grid("sum_yy")
    with pytest.raises(ValueError, match=r"layer must be None or one of 0\.weight, .*, got 'head'"):
        monitor.series("head", "std")
    for call in (monitor.write, Monitor.read):
        with pytest.raises(ValueError, match=r"path must end in \.parquet or \.csv, got .*run\.json"):
            call(tmp_path / "run.json")


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"every": 0}, {"every": 1.5}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Monitor: {next(iter(wrong))} must be an integer of at least 1"):
        Monitor(Source(), **wrong)


def test_wrong_sources_and_tables_are_refused():
    with pytest.raises(TypeError, match="source must have add_observer"):
        Monitor(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="named_parameters must be pairs"):
        Monitor(Source(), nn.Linear(1, 1).parameters())
    params = [nn.Parameter(torch.zeros(1))]
    monitor = Monitor(Source())
    with pytest.raises(ValueError, match=r"table must be \[2, 16\] for 1 parameters, got \[3, 16\]"):
        monitor._observe(0, torch.zeros(3, 16, dtype=torch.float64), params)
    with pytest.raises(ValueError, match="twice"):
        monitor._observe(0, torch.zeros(3, 16, dtype=torch.float64), params * 2)


# Names and sets of parameters


def test_names_default_to_the_order_of_appearance():
    run = Run()
    monitor = Monitor(run.source)
    run.step(0, absent=["0.weight"])
    run.step(1)
    assert monitor.layers == [f"param{i}" for i in range(6)]
    assert monitor.series("param5", "n")[0].tolist() == [1]  # 0.weight came last


def test_names_default_to_the_order_of_the_groups():
    run = Run()
    params = list(run.named.values())
    run.source.param_groups = [{"params": params[:2]}, {"params": params[2:3], "param_names": ["mine"]}]
    monitor = Monitor(run.source)
    run.step(0, absent=["0.weight"])
    run.step(1)
    assert monitor.layers == ["param0", "param1", "mine", "param3", "param4", "param5"]
    assert monitor.series("param0", "n")[0].tolist() == [1]


def test_a_default_name_does_not_take_a_given_one():
    run = Run()
    monitor = Monitor(run.source, {"param1": run.named["4.bias"]})
    run.step(0)
    assert monitor.layers == ["param1", "param1'", "param2", "param3", "param4", "param5"]


def test_names_must_differ():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    for pairs in ([("w", a), ("w", b)], [("(all)", a)]):
        with pytest.raises(ValueError, match="distinct names"):
            Monitor(Source(), pairs)


def test_a_tied_parameter_is_one_layer():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    source = Source()
    monitor = Monitor(source, model.named_parameters(remove_duplicate=False))
    model(torch.ones(1, 4)).sum().backward()
    source.step(0, list(model.parameters()))
    assert monitor.layers == ["0.weight"]


def test_parameters_without_a_gradient_have_no_row(tmp_path):
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.steps(0, 9, alternating)
    assert monitor.layers == list(run.named)  # model order, though 0.weight came last
    assert monitor.series("0.weight", "std")[0].tolist() == [1, 2, 4, 5, 7, 8]
    steps, grid = monitor.grid("std")
    for i, (name, param) in enumerate(run.named.items()):
        present = [param in run.source.gradients[step] for step in range(9)]
        assert (~grid[:, i].isnan()).tolist() == present
        assert torch.equal(grid[present, i], monitor.series(name, "std")[1])
        for step, value in zip(*(part.tolist() for part in monitor.series(name, "std")), strict=True):
            truth = run.source.gradients[step][param][0].std(correction=0).item()
            assert value == pytest.approx(truth, rel=1e-12)
    columns = Monitor.read(monitor.write(tmp_path / "run.csv"))
    assert len(columns["step"]) == 9 + 3 * (5 + 4 + 6)
    assert steps.tolist() == list(range(9))


def test_a_step_without_any_gradient_has_only_the_list():
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.step(0, absent=list(run.named))
    assert monitor.layers == []
    assert monitor.latest()["step"] == 0
    run.step(1)
    assert monitor.series(None, "n")[1].tolist() == [0.0, float(sum(p.numel() for p in run.named.values()))]


def test_parameters_can_be_replaced():
    run = Run()
    monitor = Monitor(run.source)
    run.step(0)
    run.named["4.bias"] = run.model[4].bias = nn.Parameter(torch.zeros(4))
    gc.collect()
    run.step(1)
    assert monitor.series("param5", "n")[0].tolist() == [0]
    assert monitor.series("param6", "n")[0].tolist() == [1]


# The ring


@pytest.mark.parametrize("absent", [lambda step: (), alternating])
def test_a_full_ring_holds_the_newest_steps(tmp_path, absent):
    files = []
    for capacity in (7, 100):
        run = Run()
        monitor = Monitor(run.source, run.named, capacity=capacity)
        run.steps(0, 25, absent)
        files.append(Monitor.read(monitor.write(tmp_path / f"{capacity}.parquet")))
        assert monitor.latest()["step"] == 24
    assert repr(monitor).startswith("Monitor(25 of 100 steps, 6 layers")
    newest = files[1]["step"] >= 18
    assert_same(files[0], {name: column[newest] for name, column in files[1].items()})


def test_layers_that_appear_late_grow_a_wrapped_ring():
    run = Run(depth=6)
    names = list(run.named)
    monitor = Monitor(run.source, capacity=5)
    for step in range(len(names)):
        run.step(step, absent=names[step + 1 :])
    assert len(monitor.layers) == 12
    for i in range(12):
        assert monitor.series(f"param{i}", "n")[0].tolist() == list(range(max(i, 7), 12))


def test_every_thins_the_steps():
    run = Run()
    monitor = Monitor(run.source, run.named, every=4)
    run.steps(1, 14)
    assert monitor.series(None, "std")[0].tolist() == [4, 8, 12]


def test_going_back_to_a_checkpoint_replaces_the_steps_after_it():
    run = Run()
    monitor = Monitor(run.source, run.named, capacity=8)
    run.steps(0, 10)
    kept = monitor.series(None, "std")[1][:4]
    run.steps(6, 8, lambda step: ("0.weight",))
    assert monitor.series(None, "std")[0].tolist() == [2, 3, 4, 5, 6, 7]
    assert torch.equal(monitor.series(None, "std")[1][:4], kept)
    assert monitor.series("0.weight", "std")[0].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("steps", [5, 150])
def test_tables_on_a_device_are_kept_and_moved_together(monkeypatch, tmp_path, steps):
    files = []
    for deferred in (False, True):
        monkeypatch.setattr(Monitor, "_is_here", staticmethod(lambda table, deferred=deferred: not deferred))
        run = Run()
        monitor = Monitor(run.source, run.named)
        run.steps(0, steps, alternating)
        assert len(monitor._pending) == (steps % 64 if deferred else 0)
        files.append(Monitor.read(monitor.write(tmp_path / "run.parquet")))
    assert_same(*files)
