"""``fastgrad.Monitor`` on a fake source whose tables are computed here, in float64, from real gradients."""

import gc
import math

import numpy as np
import pytest
import torch
from torch import nn

from fastgrad.monitor import Monitor
from fastgrad.shrinkage import COLUMNS

# fmt: off
QUANTITIES = [
    "n", "mean", "std", "norm", "min", "max", "nonfinite", "a", "c", "q", "norm_ratio", "cosine",
    "noise_variance", "zeroed", "saturated", "scale", "absmax", "k",
]
# fmt: on


class Source:
    """What an optimizer does for its observers: after a backward, a table of the gradients that are there.

    y = (x - mean) * alpha, alpha = std / first std (autoscale); q = y rounded on a coarse grid of 9 values.
    """

    def __init__(self, quantize=True):
        self.observers, self.quantize, self.first = {}, quantize, None
        self.gradients = {}  # step -> {parameter: (x, y, q, counts)}

    def add_observer(self, fn):
        key = object()
        self.observers[key] = fn
        source = self

        class Handle:
            def remove(self):
                source.observers.pop(key, None)

        return Handle()

    def step(self, step, params):
        params = [param for param in params if param.grad is not None]
        xs = [param.grad.double().flatten() for param in params]
        finite = [x[x.isfinite()] for x in xs]
        everything = torch.cat([*finite, torch.zeros(0, dtype=torch.float64)])
        sigma = everything.std(correction=0).item() if len(everything) else 0.0
        self.first = self.first or sigma
        alpha = sigma / self.first if sigma else 1.0
        rows, kept = [], {}
        for param, x, good in zip(params, xs, finite, strict=True):
            n, mean = len(good), good.mean().item() if len(good) else 0.0
            row = dict.fromkeys(COLUMNS, 0.0) | {
                "n": n,
                "mean": mean,
                "a": alpha,
                "c": mean,
                "scale": 1.0,
                "k": 1.0,
            }
            row["m2"] = (good - mean).square().sum().item()
            row["min"], row["max"] = (good.min().item(), good.max().item()) if n else (math.inf, -math.inf)
            row["nonfinite"] = len(x) - n
            y = (good - mean) * alpha
            q = y
            if self.quantize and n:
                scale = y.std(correction=0).item() / 2 or 1.0
                q = (y / scale).clamp(-4, 4).round() * scale
                row |= {
                    "sum_yy": (y * y).sum(),
                    "sum_yq": (y * q).sum(),
                    "sum_qq": (q * q).sum(),
                    "scale": scale,
                }
                row |= {"zeroed": ((y != 0) & (q == 0)).sum(), "saturated": ((y / scale).abs() > 4).sum()}
                row["absmax"] = y.abs().max().item()
            rows.append(row)
            kept[param] = (good, y, q)
        whole = {name: sum(float(row[name]) for row in rows) for name in COLUMNS}
        mean = everything.mean().item() if len(everything) else 0.0
        whole |= {"mean": mean, "m2": (everything - mean).square().sum().item(), "a": alpha, "c": 0.0}
        whole |= {"scale": 1.0, "k": 1.0, "absmax": max((row["absmax"] for row in rows), default=0.0)}
        whole["min"] = min((row["min"] for row in rows), default=math.inf)
        whole["max"] = max((row["max"] for row in rows), default=-math.inf)
        table = torch.tensor(
            [[float(row[name]) for name in COLUMNS] for row in [*rows, whole]], dtype=torch.float64
        )
        self.gradients[step] = kept
        for fn in list(self.observers.values()):
            fn(step, table, params)


class Run:
    """Backward passes of a small network; the parameters named ``absent`` have no gradient at that step."""

    def __init__(self, quantize=True, depth=3, seed=0):
        torch.manual_seed(seed)
        blocks = [layer for _ in range(depth - 1) for layer in (nn.Linear(12, 12), nn.Tanh())]
        self.model = nn.Sequential(*blocks, nn.Linear(12, 4))
        self.source = Source(quantize)
        self.named = dict(self.model.named_parameters())

    def step(self, step, absent=()):
        generator = torch.Generator().manual_seed(step)
        self.model.zero_grad()
        self.model(torch.randn(8, 12, generator=generator)).square().sum().mul(1 + step).backward()
        for name in absent:
            self.named[name].grad = None
        self.source.step(step, list(self.named.values()))

    def steps(self, first, last, absent=lambda step: ()):
        for step in range(first, last):
            self.step(step, absent(step))


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype.kind == b[name].dtype.kind, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def alternating(step):
    return ("0.weight",) if step % 3 == 0 else ("2.bias", "4.weight") if step % 3 == 1 else ()


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


# Files


@pytest.mark.parametrize("suffix", ["parquet", "csv", "CSV"])
def test_files_read_back_bit_for_bit(tmp_path, suffix):
    run = Run()
    monitor = Monitor(run.source, {f'odd "{name}", naïve': param for name, param in run.named.items()})
    run.steps(0, 300, alternating)  # more than one block
    path = monitor.write(tmp_path / "new" / f"run.{suffix}")
    assert [file.name for file in path.parent.iterdir()] == [f"run.{suffix}"]  # no temporary file is left
    columns = Monitor.read(str(path))
    assert list(columns) == ["step", "layer", *QUANTITIES]
    for name in ("step", "n", "nonfinite", "zeroed", "saturated"):
        assert columns[name].dtype == np.int64
    assert columns["layer"].dtype.kind == "U"
    for layer in (None, *monitor.layers):
        rows = columns["layer"] == (layer or "(all)")
        for quantity in QUANTITIES:
            steps, values = monitor.series(layer, quantity)
            assert columns["step"][rows].tolist() == steps.tolist()
            np.testing.assert_array_equal(columns[quantity][rows], values.numpy())


def test_infinities_and_nans_survive_both_files(tmp_path):
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.model(torch.ones(1, 12)).sum().backward()
    run.named["4.bias"].grad[:] = math.nan
    run.source.step(0, list(run.named.values()))
    files = [Monitor.read(monitor.write(tmp_path / f"run.{suffix}")) for suffix in ("csv", "parquet")]
    assert_same(*files)
    row = files[0]["layer"] == "4.bias"
    assert files[0]["min"][row] == math.inf
    assert np.isnan(files[0]["std"][row])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.step(0)
    path = monitor.write(tmp_path / "run.csv")
    before = path.read_bytes()

    def fail():
        yield from ()
        raise OSError("disk full")

    monkeypatch.setattr(monitor, "_columns", fail)
    with pytest.raises(OSError, match="disk full"):
        monitor.write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_pyarrow_csv_works_and_parquet_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monitor = Monitor(Source())
    monitor.write(tmp_path / "run.csv")
    with pytest.raises(ImportError, match="needs pyarrow"):
        monitor.write(tmp_path / "run.parquet")


# Keeping


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("capacity", [6, 100])
def test_a_resumed_run_writes_the_file_of_an_uninterrupted_one(tmp_path, suffix, capacity):
    whole = Run()
    expected = Monitor(whole.source, whole.named, capacity=capacity)
    whole.steps(0, 20, alternating)

    first = Run()
    with Monitor(first.source, first.named, capacity=capacity) as monitor:
        first.steps(0, 13, alternating)
        torch.save(monitor.state_dict(), tmp_path / "state.pt")
        first.steps(13, 15)  # lost in the crash
    second = Run()
    second.source.first = first.source.first
    resumed = Monitor(second.source, second.named, capacity=capacity)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.latest()["step"] == 12
    second.steps(13, 20, alternating)
    files = [monitor.write(tmp_path / f"{i}.{suffix}") for i, monitor in enumerate((expected, resumed))]
    assert_same(*map(Monitor.read, files))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert resumed.layers == expected.layers


def test_a_state_fits_a_smaller_ring_and_replaces_what_is_held():
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.steps(0, 10)
    state = monitor.state_dict()
    other = Run(seed=1)
    small = Monitor(other.source, other.named, capacity=4)
    other.steps(50, 60)
    small.load_state_dict(state)
    assert small.series(None, "std")[0].tolist() == [6, 7, 8, 9]
    assert torch.equal(small.grid("q")[1], monitor.grid("q")[1][6:])
    other.steps(10, 11)
    assert small.series("0.bias", "std")[0].tolist() == [7, 8, 9, 10]


def test_state_is_a_copy_and_wrong_states_are_refused():
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.steps(0, 3, alternating)
    state = monitor.state_dict()
    state["tables"].zero_()
    assert monitor.latest()["global_std"] > 0
    with pytest.raises(ValueError, match="version must be 1, got 2"):
        monitor.load_state_dict(state | {"version": 2})
    with pytest.raises(ValueError, match=r"tables must have shape \[3, 7, 16\], got \[2, 7, 16\]"):
        monitor.load_state_dict(state | {"tables": state["tables"][:2]})


def test_close_detaches_and_keeps():
    run = Run()
    with Monitor(run.source, run.named) as monitor:
        run.step(0)
    assert run.source.observers == {}
    run.step(1)
    monitor.close()
    assert monitor.latest()["step"] == 0
    assert repr(monitor) == "Monitor(1 of 10000 steps, 6 layers, every=1, closed)"


# Pictures and TensorBoard


def names_of(paths):
    return {path.stem for path in paths}


@pytest.mark.parametrize("depth", [2, 8])  # a legend, a colour bar
def test_pictures_show_something(tmp_path, depth):
    image = pytest.importorskip("matplotlib.image")
    run = Run(depth=depth)
    monitor = Monitor(run.source, run.named)
    run.steps(0, 12, alternating if depth == 8 else lambda step: ())
    paths = monitor.plot(tmp_path / "figures")
    assert names_of(paths) == {
        "std_global",
        "std_layers",
        "std_heatmap",
        "alpha",
        "q_layers",
        "rounding_counts",
    }
    for path in paths:
        pixels = image.imread(path)[..., :3]
        dark = (pixels.min(-1) < 0.9).mean()  # a frame and text alone stay below 2 %
        assert dark > 0.02, path
        assert len(np.unique((pixels * 255).astype(int).reshape(-1, 3), axis=0)) > 20


def test_pictures_without_a_reason_are_not_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    run = Run(quantize=False)
    monitor = Monitor(run.source, run.named)
    run.step(0)  # autoscale starts at alpha = 1
    assert names_of(monitor.plot(tmp_path)) == {"std_global", "std_layers", "std_heatmap"}


def test_pictures_of_gradients_that_are_zero_or_nonfinite(tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    run = Run()
    monitor = Monitor(run.source, run.named)
    for step, value in enumerate((0.0, math.nan)):
        for param in run.named.values():
            param.grad = torch.full_like(param, value)
        run.source.step(step, list(run.named.values()))
    assert names_of(monitor.plot(tmp_path)) == {"std_global"}
    assert not [str(warning.message) for warning in recwarn]


def test_pictures_leave_pyplot_alone(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    run = Run()
    monitor = Monitor(run.source, run.named)
    run.step(0)
    monitor.plot(tmp_path)
    assert pyplot.get_fignums() == []


def test_tensorboard_file_reads_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run()
    with Monitor(run.source, run.named, every=2, tensorboard=tmp_path / "events") as monitor:
        run.steps(0, 6, alternating)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags == {
        *("gradient/global_std", "gradient/alpha", "gradient/q_mean"),
        *(f"{quantity}/{name}" for quantity in ("std", "q") for name in run.named),
    }
    for tag, layer, quantity in (
        ("gradient/global_std", None, "std"),
        ("gradient/alpha", None, "a"),
        ("std/0.weight", "0.weight", "std"),
        ("q/4.bias", "4.bias", "q"),
    ):
        steps, values = monitor.series(layer, quantity)
        assert [event.step for event in events.Scalars(tag)] == steps.tolist()
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(values.tolist(), rel=1e-6)


def test_a_given_writer_is_used_and_left_open(monkeypatch):
    class Writer:
        def __init__(self):
            self.calls, self.closed = [], False

        def add_scalar(self, tag, value, step, walltime):
            self.calls.append((step, walltime, tag))

        def flush(self):
            pass

        def close(self):
            self.closed = True

    monkeypatch.setattr(Monitor, "_is_here", staticmethod(lambda table: False))
    run, writer = Run(quantize=False), Writer()
    monitor = Monitor(run.source, run.named, tensorboard=writer)
    run.steps(0, 3)
    assert writer.calls == []  # device tables wait
    monitor.close()
    assert not writer.closed
    assert [step for step, _, tag in writer.calls if tag == "gradient/alpha"] == [0, 1, 2]
    times = [seconds for _, seconds, tag in writer.calls if tag == "gradient/alpha"]
    assert times[0] < times[1] < times[2]
    assert not any(tag.startswith("q/") or tag.endswith("q_mean") for _, _, tag in writer.calls)


def test_without_tensorboard_the_error_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    source = Source()
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Monitor(source, tensorboard=tmp_path)
    assert source.observers == {}
