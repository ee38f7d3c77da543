"""Processes and threads: settings of the environment, forked workers, callers in parallel, the GIL."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from contract_backends import CPU_BACKENDS, needs_native
from contract_bits import assert_same_bits
from fastgrad_digest import digest

import fastgrad
from fastgrad import library

ROOT = Path(__file__).resolve().parents[1]
SUPPORT = ROOT / "tests" / "support"


def run_python(code: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
    """A fresh interpreter; a hang is a failure."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FASTGRAD_")}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(SUPPORT)])
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


DIGEST = "import runpy; runpy.run_module('fastgrad_digest', run_name='__main__')"


def test_without_native_module():
    """The package works on its references, says so once, and gives the same bits."""
    done = run_python(DIGEST, FASTGRAD_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The PyTorch references are used") == 1
    assert "FASTGRAD_NATIVE=0" in done.stderr
    assert done.stdout.split() == ["none", digest()]


@needs_native
@pytest.mark.parametrize("name", sorted({backend.instruction_set for backend in CPU_BACKENDS}))
def test_instruction_set_of_the_environment(name):
    done = run_python(DIGEST, FASTGRAD_CPU=name)
    assert done.returncode == 0, done.stderr
    assert "references are used" not in done.stderr
    assert done.stdout.split() == [name, digest()]


@needs_native
@pytest.mark.parametrize("limit", ("1", "2"))
def test_fewer_threads_than_were_asked_for(limit):
    """Each thread of a loop has a share of the work; the shares of threads that never come are done by the others."""
    code = f"import torch; torch.set_num_threads(5); {DIGEST}"
    done = run_python(code, OMP_THREAD_LIMIT=limit)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == digest()


@needs_native
def test_unknown_instruction_set():
    done = run_python("import fastgrad", FASTGRAD_CPU="nonsense")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: FASTGRAD_CPU: 'nonsense'") and "baseline" in last
    with (
        pytest.raises(ValueError, match=r"name: 'nonsense'.*baseline"),
        library.use_instruction_set("nonsense"),
    ):
        pass


def test_import_needs_torch_alone():
    """Drawing, tables and the command line are imported where they are used."""
    optional = ("matplotlib", "typer", "rich", "pyarrow", "PIL", "sklearn", "pooch", "tensorboard")
    code = f"import sys\nfor name in {optional}: sys.modules[name] = None\nimport fastgrad, torch\n"
    code += "fastgrad.quantize(torch.ones(3), 'int8')"
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_import_needs_no_numpy():
    """torch itself imports numpy if it can; fastgrad must do without."""
    code = "import sys; sys.modules['numpy'] = None\nimport torch, fastgrad\n"
    code += "fastgrad.quantize(torch.ones(3), 'int8')"
    done = run_python(code)
    assert done.returncode == 0, done.stderr


WORKERS = """
import torch, fastgrad
from torch.utils.data import DataLoader, Dataset

class Rounded(Dataset):
    def __len__(self): return 6
    def __getitem__(self, i):
        x = torch.randn(200_000, generator=torch.Generator().manual_seed(i))
        return fastgrad.quantize(x, "int8", step=i)[0].codes

torch.set_num_threads(2)
torch.randn(3_000_000).exp_()  # torch's team is up
{before}
here = torch.stack([Rounded()[i] for i in range(6)]) if {here} else None
batches = list(DataLoader(Rounded(), batch_size=3, num_workers=2, multiprocessing_context="fork"))
if here is None: here = torch.stack([Rounded()[i] for i in range(6)])
assert torch.equal(torch.cat(batches), here)
print("same")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("here", (True, False), ids=("used before", "not used before"))
def test_forked_workers(here):
    """DataLoader workers, forked after torch (and fastgrad) ran threads, give the same bits and end."""
    done = run_python(WORKERS.format(before="", here=here))
    assert done.returncode == 0 and done.stdout.strip() == "same", done.stderr


FORKED = """
import os, signal, torch, fastgrad
torch.set_num_threads(2)
x = torch.randn(500_000)
torch.randn(3_000_000).exp_()  # torch's team is up
if {used_before}: fastgrad.quantize(x, "bf16")
child = os.fork()
if child == 0:
    signal.alarm(8)
    fastgrad.quantize(x, "bf16")
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("used_before", (True, False))
def test_forked_child_with_many_threads(used_before):
    """A plain fork, where torch still says two threads: the child must not wait for a team that is gone."""
    done = run_python(FORKED.format(used_before=used_before))
    assert done.stdout.strip() == "0", f"the child ended by {done.stdout!r} (14: it hung)"


def test_calls_from_several_threads(backend):
    """Callers in parallel get what each gets alone."""

    def work(i: int) -> list[torch.Tensor]:
        x = torch.randn(100_000 + i, generator=torch.Generator().manual_seed(i))
        p, m = x.clone(), torch.zeros_like(x)
        hyper = torch.tensor([[0.1, 0.9, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)
        results = []
        for step in range(5):
            codes, table = fastgrad.quantize(x, "int4", step=step)
            stepped = fastgrad.sgd_step_([p], [x], [m], hyper, method="znorm", format="bf16", step=step)
            results += [codes.codes, table, stepped]
        return [*results, p, m]

    expected = [work(i) for i in range(4)]
    got: list[list[torch.Tensor] | None] = [None] * 4

    def run(i: int) -> None:
        got[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert_same_bits(got[i], expected[i], f"thread {i}")


def ticks_during(call) -> int:
    """How often another Python thread, asleep in between, gets to run while `call` runs; the best of ten."""
    best = 0
    for _ in range(10):
        running, ticks = threading.Event(), [0]
        stop = threading.Event()

        def tick(running=running, stop=stop, ticks=ticks):
            while not stop.is_set():
                ticks[0] += running.is_set()
                time.sleep(1e-4)

        thread = threading.Thread(target=tick)
        thread.start()
        running.set()
        call()
        running.clear()
        stop.set()
        thread.join()
        best = max(best, ticks[0])
        if best >= 20:
            break
    return best


@needs_native
def test_the_gil_is_released(monkeypatch):
    """Another Python thread goes on while a long call runs; a call that holds the lock is told apart."""
    genuine, calls = library.native.sweep, []
    monkeypatch.setattr(library.native, "sweep", lambda *call: calls.append(call) or genuine(*call))
    x = torch.randn(1 << 20)
    kept_alive = fastgrad.quantize([x] * 100, "int8")
    assert len(calls) == 1 and kept_alive
    # The native call alone: what torch does around it gives other threads their turns anyway.
    assert ticks_during(lambda: genuine(*calls[0])) >= 20
    holds = ctypes.PyDLL(None)
    assert ticks_during(lambda: holds.usleep(50_000)) < 20
