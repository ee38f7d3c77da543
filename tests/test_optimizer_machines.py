"""Random sequences of what a training does to an optimizer, against the plain training on the PyTorch reference.

Two trainings get the same gradients. One runs on the native kernels and is stepped, released, checkpointed and moved
to other instruction sets in any order; the other is only ever stepped, on the reference. After every rule all that they
keep has the same bits. ``pytest -m slow tests/test_optimizer_machines.py`` runs ten times as many sequences.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import pytest
import torch
from contract_backends import CPU_BACKENDS, needs_native, reference_running
from contract_bits import assert_same_bits
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from kept_bits import kept_tensors
from torch import Tensor, nn

import fastgrad
from fastgrad.optim import SGD, AdamW, flatten_state_dict, unflatten_state_dict

pytestmark = needs_native
SHAPES = ((32, 128), (7,), (3, 5, 4), (64, 64), ())  # two of them large enough for states in blocks
LEFT_OUT = st.sets(st.integers(0, len(SHAPES) - 1), max_size=2)  # parameters without a gradient
TREATMENTS = (
    {},
    {"normalize": "znorm", "grad_format": "fp8_e4m3"},
    {"normalize": "centralize", "grad_format": "int8", "scale": "block", "block": 32},
    {"normalize": "autoscale", "grad_format": "bf16"},
    {"normalize": "clip", "max_norm": 0.1},
    {"normalize": "centre", "grad_format": "fp4_e2m1", "compensate": "q"},
    {"normalize": "znorm", "stats": "lagged", "grad_format": "fp16"},
)
GLOBAL = ("autoscale", "clip")  # need all gradients at once: a released training takes last step's factor
OPTIMIZERS: dict[str, Callable] = {
    "SGD": lambda p, **o: SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01, **o),
    "SGD plain": lambda p, **o: SGD(p, 0.1, weight_rounding="stochastic", **o),
    "AdamW": lambda p, **o: AdamW(p, 1e-2, **o),
    "AdamW int8": lambda p, **o: AdamW(p, 1e-2, state_format="int8", **o),
    "AdamW fp4 factored": lambda p, **o: AdamW(p, 1e-2, state_format="fp4_e2m1", factored=True, **o),
    "AdamW no first moment": lambda p, **o: AdamW(p, 1e-2, betas=(0.0, 0.99), factored=True, **o),
}


class Network(nn.Module):
    """Parameters whose gradients are p - target, each alone: nothing that two machines would round differently."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        made = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
        self.weights = nn.ParameterList(made)

    def backward(self, seed: int, left_out: set[int], wild: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        total = 0.0
        for i, p in enumerate(self.weights):
            target = torch.randn(p.shape, generator=generator).to(p.dtype)
            if wild and i == 1:
                target[2] = torch.nan
            if i not in left_out:
                total = total + 0.5 * (p - target).float().square().sum()
        total.backward()


def saved_and_loaded(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Training(RuleBasedStateMachine):
    """What both machines share: two networks, and the backend that the native one runs on."""

    dtype: torch.dtype

    def start(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.native_network, self.plain_network = Network(dtype), Network(dtype)
        self.backend = CPU_BACKENDS[0]

    @rule(backend=st.sampled_from(CPU_BACKENDS or (None,)))
    def move(self, backend):
        self.backend = backend

    def kept(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        return kept_tensors(network, optimizer)

    def compare(self, native: torch.optim.Optimizer, plain: torch.optim.Optimizer) -> None:
        got, expected = self.kept(self.native_network, native), self.kept(self.plain_network, plain)
        assert_same_bits(got, expected, "what the trainings keep")


class FusedMachine(Training):
    """fastgrad's optimizers: steps, release, checkpoints in both forms, learning rates, missing gradients."""

    native: torch.optim.Optimizer
    plain: torch.optim.Optimizer
    released = None

    @initialize(
        name=st.sampled_from(sorted(OPTIMIZERS)),
        treatment=st.sampled_from(TREATMENTS),
        dtype=st.sampled_from((torch.float32, torch.bfloat16)),
        skip=st.booleans(),
    )
    def begin(self, name, treatment, dtype, skip):
        self.start(dtype)
        self.treatment = treatment | ({"nonfinite": "skip"} if skip else {})
        self.name = name
        self.native, self.plain = self.made(self.native_network), self.made(self.plain_network)

    def made(self, network: nn.Module) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.name](network.parameters(), **self.treatment)

    @rule(seed=st.integers(0, 1000), left_out=LEFT_OUT, wild=st.booleans())
    def train(self, seed, left_out, wild):
        if "stats" in self.treatment:
            left_out = set()  # lagged statistics are those of a list that stays the same
        wild = wild and "nonfinite" in self.treatment and self.released is None  # released: skipped one by one
        with self.backend.running():
            self.native_network.backward(seed, left_out, wild)
            if self.released is None:
                self.native.step()
                self.native.zero_grad()
            else:
                assert all(p.grad is None for p in self.native_network.parameters())
                self.released.step()
        self.plain_network.backward(seed, left_out, wild)
        with reference_running():
            self.plain.step()
        self.plain.zero_grad()
        self.compare(self.native, self.plain)

    @precondition(lambda self: self.released is None and self.treatment.get("normalize") not in GLOBAL)
    @precondition(lambda self: "compensate" not in self.treatment)
    @rule()
    def release(self):
        self.released = fastgrad.release_gradients(self.native_network, self.native)

    @precondition(lambda self: self.released is not None)
    @rule()
    def remove(self):
        self.released.remove()
        self.released = None

    @rule(flat=st.booleans(), again=st.booleans())
    def checkpoint(self, flat, again):
        """Into a new network and a new optimizer, released again if the old one was and `again` is drawn."""
        weights, state = saved_and_loaded(self.native_network.state_dict()), self.native.state_dict()
        state = unflatten_state_dict(*flatten_state_dict(state)) if flat else saved_and_loaded(state)
        was_released = self.released is not None
        self.native_network = Network(self.dtype)
        self.native_network.load_state_dict(weights)
        self.native = self.made(self.native_network)
        self.native.load_state_dict(state)
        self.released = None
        if was_released and again:
            self.release()
        self.compare(self.native, self.plain)

    @rule(lr=st.sampled_from((0.0, 1e-3, 0.05, 1.0)))
    def learning_rate(self, lr):
        for optimizer in (self.native, self.plain):
            for group in optimizer.param_groups:
                group["lr"] = lr


class AttachedMachine(Training):
    """attach to torch's optimizers: steps, detaching and attaching again with the handle's state, checkpoints."""

    makers = {  # noqa: RUF012
        "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    }

    @initialize(
        name=st.sampled_from(sorted(makers)),
        treatment=st.sampled_from([t for t in TREATMENTS if t and "compensate" not in t]),
        dtype=st.sampled_from((torch.float32, torch.bfloat16)),
    )
    def begin(self, name, treatment, dtype):
        self.start(dtype)
        self.name, self.treatment = name, treatment
        self.native, self.plain = (self.makers[name](n.parameters()) for n in (self.native_network, self.plain_network))
        self.handle = fastgrad.attach(self.native, **treatment)
        self.plain_handle = fastgrad.attach(self.plain, **treatment)

    @rule(seed=st.integers(0, 1000), left_out=LEFT_OUT, treated=st.booleans())
    def train(self, seed, left_out, treated):
        """Untreated: a step between detaching and attaching again."""
        if "stats" in self.treatment:
            left_out = set()
        kept = self.handle.state_dict(), self.plain_handle.state_dict()
        if not treated:
            self.handle.detach()
            self.plain_handle.detach()
        for network, optimizer, where in (
            (self.native_network, self.native, self.backend.running()),
            (self.plain_network, self.plain, reference_running() if treated else contextlib.nullcontext()),
        ):
            network.backward(seed, left_out, False)
            with where:
                optimizer.step()
            optimizer.zero_grad()
        if not treated:
            self.handle = fastgrad.attach(self.native, **self.treatment)
            self.plain_handle = fastgrad.attach(self.plain, **self.treatment)
            self.handle.load_state_dict(saved_and_loaded(kept[0]))
            self.plain_handle.load_state_dict(kept[1])
        self.compare(self.native, self.plain)

    @rule()
    def checkpoint(self):
        weights, state = map(saved_and_loaded, (self.native_network.state_dict(), self.native.state_dict()))
        handle = saved_and_loaded(self.handle.state_dict())
        self.native_network = Network(self.dtype)
        self.native_network.load_state_dict(weights)
        self.native = self.makers[self.name](self.native_network.parameters())
        self.native.load_state_dict(state)
        self.handle = fastgrad.attach(self.native, **self.treatment)
        self.handle.load_state_dict(handle)
        self.compare(self.native, self.plain)


def run(machine: type, examples: int, *, shrink: bool = True) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", (FusedMachine, AttachedMachine))
def test_sequences(machine):
    run(machine, 12)


@pytest.mark.slow
@pytest.mark.parametrize("machine", (FusedMachine, AttachedMachine))
def test_many_sequences(machine):
    run(machine, 150)


def test_a_lost_step_count_is_seen(monkeypatch):
    """A checkpoint that forgets how many steps there were repeats its noise: some sequence must show it."""
    genuine = AdamW.load_state_dict

    def forgetful(self, state):
        genuine(self, state)
        self._progress.step = 0

    monkeypatch.setattr(AdamW, "load_state_dict", forgetful)
    monkeypatch.setattr(FusedMachine, "made", lambda self, network: OPTIMIZERS["AdamW int8"](network.parameters()))
    with pytest.raises(AssertionError, match="what the trainings keep"):
        run(FusedMachine, 30, shrink=False)
