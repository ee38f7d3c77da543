"""fastgrad.Monitor: files, resuming, pictures, TensorBoard."""

import math

import numpy as np
import pytest
import torch
from monitor_source import QUANTITIES, Run, Source, alternating, assert_same

from fastgrad.monitor import Monitor

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
