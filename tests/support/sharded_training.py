"""Trainings that one process and several ranks take part in, for the tests of fully_shard."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.utils.checkpoint import checkpoint

import fastgrad
from fastgrad.optim import SGD, AdamW

# Rows that do not divide by two or three ranks, tiles and chunks that the shards cut, tensors smaller than the ranks.
CASES = {
    "plain": lambda p: AdamW(p, 1e-2),
    "znorm fp8": lambda p: AdamW(p, 1e-2, normalize="znorm", grad_format="fp8_e4m3", state_format="bf16"),
    "clip": lambda p: AdamW(p, 1e-2, normalize="clip", max_norm=0.01, state_format="int8"),
    "autoscale lagged": lambda p: AdamW(
        p, 1e-2, normalize="autoscale", stats="lagged", grad_format="bf16", state_format="fp4_e2m1"
    ),
    "factored": lambda p: AdamW(p, 1e-2, state_format="int4", factored=True, normalize="centre", grad_format="int8"),
    "centralize": lambda p: AdamW(p, 1e-2, normalize="centralize", grad_format="fp8_e5m2", factored=True),
    "skip": lambda p: AdamW(p, 1e-2, nonfinite="skip", state_format="int8"),
    "sgd": lambda p: SGD(
        p, 1e-3, momentum=0.9, normalize="autoscale", grad_format="fp8_e4m3", weight_rounding="stochastic"
    ),
    "fp8 states": lambda p: AdamW(p, 1e-2, betas=(0.0, 0.99), state_format="fp8_e4m3", nonfinite="skip"),
}
# What needs a value of all gradients of the same step cannot be released.
RELEASED = [case for case in CASES if case not in ("clip", "sgd")]
STEPS, SAVED = 4, 2  # of a training, and before its checkpoint


def network(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(48, 131), nn.GELU(), nn.Linear(131, 2), nn.Linear(2, 640), nn.Linear(640, 333)]
    return nn.Sequential(*layers, nn.LayerNorm(333), nn.Linear(333, 5)).to(dtype)


def sharded(model: nn.Module, mesh: dist.DeviceMesh | None = None) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in model:
        if sum(p.numel() for p in layer.parameters()) > 1000:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # Sums instead of means, and all ranks but one without gradient: the sum over ranks is exact.
    for module in model.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return model


def backward(model: nn.Module, step: int, rank: int, scale: float = 1.0) -> None:
    x = torch.randn(16, 48, generator=torch.Generator().manual_seed(step)).to(torch.bfloat16)
    loss = model(x).float().square().mean() * (1.0 if rank == 0 else 0.0)
    if step == 2:
        loss = loss * 50.0
    (loss * scale).backward()


class Checkpointed(nn.Module):
    """A layer whose activations are computed again in backward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def whole(t: Tensor) -> Tensor:
    t = t.full_tensor() if hasattr(t, "full_tensor") else t
    return t.detach().clone()


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights and states, whole."""
    kept = []
    for p in model.parameters():
        kept.append(whole(p))
        state = optimizer.state.get(p, {})
        kept += [whole(state[name]) for name in sorted(state)]
    return kept


class Training:
    """One case, on this rank."""

    def __init__(self, rank: int, ranks: int, case: str, kind: str = "") -> None:
        self.rank, self.case = rank, case
        self.model = network()
        if kind == "checkpointed":
            self.model = nn.Sequential(*[Checkpointed(m) if isinstance(m, nn.Linear) else m for m in self.model])
        if ranks > 1:
            mesh = None
            if kind == "replicated":
                mesh = dist.init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
            self.model = sharded(self.model, mesh)
        self.optimizer = CASES[case](self.model.parameters())
        self.released = fastgrad.release_gradients(self.model, self.optimizer) if kind == "release" else None
        self.tables: list[Tensor] = []
        self.optimizer.add_observer(lambda step, table, params: self.tables.append(table.clone()))

    def steps(self, steps: range) -> None:
        for step in steps:
            poisoned = self.optimizer.treatment.nonfinite == "skip" and step == 1
            backward(self.model, step, self.rank, torch.nan if poisoned and self.released else 1.0)
            if self.released:
                self.released.step()
                continue
            if poisoned:
                next(self.model.parameters()).grad.mul_(torch.nan)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": get_optimizer_state_dict(self.model, self.optimizer)}
        dcp.save(state, checkpoint_id=folder)

    def load(self, folder: Path) -> None:
        with torch.no_grad():
            for p in self.model.parameters():
                p.fill_(3.0)
        before = snapshot(self.model, self.optimizer)
        state = {"model": self.model.state_dict(), "optimizer": get_optimizer_state_dict(self.model, self.optimizer)}
        # States were made by a step with a learning rate of 0.
        assert all(map(torch.equal, before, map(whole, self.model.parameters()))), "weights changed before the load"
        dcp.load(state, checkpoint_id=folder)
        self.model.load_state_dict(state["model"])
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])
        self.tables.clear()

    def result(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Weights and states; what the tables have of the moments; their sums, which depend on the order of ranks."""
        kept = snapshot(self.model, self.optimizer)
        return kept, [t[:, :8] for t in self.tables], [t[:, 8:13] for t in self.tables]


def jobs(rank: int, ranks: int, folder: str, *names: str) -> dict[str, tuple]:
    """Several trainings in one group of processes: "kind:case", of which a "save" leaves a checkpoint in the folder on
    its way and a "resume" begins with it."""
    results = {}
    for name in names:
        kind, case = name.split(":")
        training, place = Training(rank, ranks, case, kind), Path(folder) / case.replace(" ", "_")
        if kind == "resume":
            training.load(place)
        else:
            training.steps(range(SAVED))
        if kind == "save":
            training.save(place)
        training.steps(range(SAVED, STEPS))
        results[name] = training.result()
    return results


def refusals(rank: int, ranks: int) -> dict[str, str]:
    """What cannot be sharded, and the message."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = dist.init_device_mesh("cpu", (ranks,))

    def int8_first() -> None:
        model = network()
        fastgrad.quantize_weights_(model)
        fully_shard(model)

    def int8_after() -> None:
        model = network()
        fully_shard(model[0])
        fastgrad.quantize_weights_(model)

    def int8_distributed() -> None:
        model = network()
        fastgrad.quantize_weights_(model)
        distribute_tensor(model[0].weight, mesh, [Shard(0)])

    def step(placement, **options) -> None:
        p = nn.Parameter(distribute_tensor(torch.ones(64, 128), mesh, [placement]))
        p.grad = distribute_tensor(torch.ones(64, 128), mesh, [placement])
        before = p.detach().clone()
        try:
            AdamW([p], **options).step()
        finally:
            assert torch.equal(p.to_local(), before.to_local()), "written before it was refused"

    def replicated() -> None:
        p = nn.Parameter(distribute_tensor(torch.ones(64, 128), mesh, [Replicate()]))
        q = nn.Parameter(torch.ones(64, 128))
        for each, place in ((p, True), (q, False)):
            g = torch.full((64, 128), 0.5)
            each.grad = distribute_tensor(g, mesh, [Replicate()]) if place else g
            AdamW([each], 1e-2, state_format="int8", weight_decay=0.0).step()
        assert torch.equal(p.to_local(), q)

    def int8_data_parallel() -> None:
        torch.manual_seed(rank)
        model = nn.Sequential(nn.Linear(48, 32), nn.GELU(), nn.Linear(32, 16))
        fastgrad.quantize_weights_(model)
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = AdamW(model.parameters(), 1e-2, state_format="int8")
        for _ in range(3):
            parallel(torch.randn(4, 48)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        mine = torch.cat([t.float().flatten() for m in (model[0], model[2]) for t in (m.weight.codes, m.weight.scales)])
        every = [torch.empty_like(mine) for _ in range(ranks)]
        dist.all_gather(every, mine)
        assert all(torch.equal(mine, other) for other in every) and mine.any()

    messages = {}
    for name, tried in {
        "int8 data parallel": int8_data_parallel,
        "int8 first": int8_first,
        "int8 after": int8_after,
        "int8 distributed": int8_distributed,
        "columns": lambda: step(Shard(1)),
        "columns, int8 states": lambda: step(Shard(1), state_format="int8"),
        "replicated": replicated,
    }.items():
        try:
            tried()
            messages[name] = ""
        except (NotImplementedError, TypeError, ValueError) as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def train_on(rank: int, ranks: int, started: str) -> None:
    """Trains until something fails; a file tells that some steps were taken."""
    training = Training(rank, ranks, "clip")
    for step in itertools.count():
        training.steps(range(step, step + 1))
        if step == 2 and rank == 0:
            Path(started).touch()


def treat(rank: int, ranks: int) -> list[Tensor]:
    """What ``attach`` makes of the gradients of one step: the bits of torch's own step depend on the shards."""
    results = []
    for options in ({"normalize": "autoscale", "grad_format": "fp8_e4m3"}, {"normalize": "centralize"}):
        model = network()
        if ranks > 1:
            model = sharded(model)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        fastgrad.attach(optimizer, **options)
        backward(model, 0, rank)
        optimizer.step()
        results += [whole(p.grad) for p in model.parameters()]
    return results
