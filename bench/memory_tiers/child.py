"""The process in which one contestant is measured: ``python -m bench.memory_tiers.child '{...}' OUT.json``.

Started by :mod:`bench.memory_tiers.watch`, which sets the environment and limits it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.machine import Others
from bench.memory_tiers import resident, tensor_bytes
from bench.memory_tiers.contestants import CONTESTANTS, Contestant
from bench.memory_tiers.shapes import SHAPES, LlamaShape, random_llama
from bench.memory_tiers.updates import Update, drop_gradients, remove_hooks
from bench.memory_tiers.words import batches

LR = 1e-5
BACKWARDS = 2  # without an update, from which the update's time is the difference


def prepared(contestant: Contestant, shape: LlamaShape) -> tuple[torch.nn.Module, Update | None]:
    model = random_llama(shape, contestant.dtype, convert=contestant.convert)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, contestant.update(model, LR)


def iteration(contestant: Contestant, model: torch.nn.Module, update: Update | None, tokens: Tensor) -> int:
    """One step; the bytes of the gradients that are held when backward is over."""
    if update is None:
        with torch.inference_mode():
            contestant.causal_lm_loss(model, tokens)
        return 0
    contestant.causal_lm_loss(model, tokens).backward()
    held = tensor_bytes.size(p.grad for p in model.parameters() if p.grad is not None)
    update.step()
    return held


def warm_up(contestant: Contestant, length: int) -> None:
    """Two steps of a tiny model: whatever a library loads when it is first used is loaded after them."""
    shape = SHAPES["llama-tiny"]
    model, update = prepared(contestant, shape)
    source = batches(shape.vocabulary, length)
    for _ in range(2):
        iteration(contestant, model, update, next(source))
    remove_hooks(model)


@dataclass(frozen=True)
class Times:
    """Of some calls, in seconds."""

    wall: list[float]
    cpu: list[float]  # of all threads of this process: nearly the same on a busy and on an idle machine

    def medians(self) -> dict[str, float]:
        return {"wall": statistics.median(self.wall), "cpu": statistics.median(self.cpu)}


def times_of(steps: int, call: Callable[[], object]) -> Times:
    found = Times([], [])
    for _ in range(steps):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found.wall.append(time.perf_counter() - wall)
        found.cpu.append(time.process_time() - cpu)
    return found


def backward_times(
    contestant: Contestant, model: torch.nn.Module, update: Update, source: Iterator[Tensor]
) -> dict[str, float] | None:
    """Medians of forward and backward alone, in the same process; None where the update cannot be taken away."""
    drop_gradients(model)
    before = tensor_bytes.digest(list(model.parameters()))
    found = times_of(BACKWARDS, lambda: contestant.causal_lm_loss(model, next(source)).backward())
    return found.medians() if tensor_bytes.digest(list(model.parameters())) == before else None


def measure(contestant: Contestant, shape: LlamaShape, *, steps: int, length: int) -> dict[str, object]:
    """Bytes counted from tensors, bytes resident, seconds; all of one contestant."""
    torch.manual_seed(0)
    warm_up(contestant, length)
    resident.give_back()
    imports, files = resident.now(), resident.of_files()
    resident.forget_peak()

    model, update = prepared(contestant, shape)
    source = batches(shape.vocabulary, length)
    parameters = sum(p.numel() for p in model.parameters())
    constructed, construction_peak = resident.now(), resident.peak()
    resident.forget_peak()

    held: list[int] = []
    others = Others()
    times = times_of(steps, lambda: held.append(iteration(contestant, model, update, next(source))))
    step_peak, after = resident.peak(), resident.now()
    # Pages of libraries that the kernel took back since would otherwise be subtracted from memory they left.
    imports -= max(0, files - resident.of_files())
    others_share = others.share()

    weights = tensor_bytes.storages(model.parameters())
    state = update.state_storages() if update is not None else {}
    gradients = tensor_bytes.storages(p.grad for p in model.parameters() if p.grad is not None)
    resident.give_back()
    counted = {
        "weights": sum(weights.values()),
        "gradients": max(held),
        "state": sum(size for address, size in state.items() if address not in weights),
        "other tensors": tensor_bytes.elsewhere([weights, state, gradients]),
    }
    persistent = counted["weights"] + counted["gradients"] + counted["state"]
    step = Times(times.wall[1:], times.cpu[1:]).medians()
    alone = backward_times(contestant, model, update, source) if update is not None else None
    return {
        "parameters": parameters,
        "counted": counted,
        "persistent": persistent,
        "resident": {
            "imports": imports,
            "constructed": constructed,
            "construction peak": construction_peak,
            "after steps": after,
            "step peak": step_peak,
        },
        "all-in peak": step_peak - imports,
        "overall peak": max(step_peak, construction_peak) - imports,
        "seconds": {
            "first step": times.wall[0],
            "steps": times.wall[1:],
            "step": step,
            "forward and backward": alone,
            "optimizer": None if alone is None else {kind: step[kind] - alone[kind] for kind in step},
        },
        "others": others_share,
    }


def main() -> None:
    request = json.loads(sys.argv[1])
    contestant, shape = CONTESTANTS[request["contestant"]], SHAPES[request["shape"]]
    torch.set_num_threads(request["threads"])
    try:
        result = {"failed": None, "versions": contestant.versions()}
        result |= measure(contestant, shape, steps=request["steps"], length=request["length"])
    except Exception as error:  # a contestant that cannot run is a result, too
        lines = str(error).strip().splitlines()
        result = {"failed": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
