"""torch.set_default_device and set_default_dtype change what programs make without naming them. What the library makes
for itself stays what its kernels read. The other device is `meta`, which every build has: nothing there has values."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import contract_backends
import pytest
import torch
from torch import nn

import fastgrad

ROOT = Path(__file__).resolve().parents[1]
# Commands, not a library: nobody sets a default for them.
COMMANDS = ("fastgrad.cifar", "fastgrad.shrinkage_model", "fastgrad.shrinkage_probe")
MAKERS = {
    "arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "ones", "rand", "randint", "randn",
    "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip


def made_anywhere(source: str) -> list[str]:
    """Calls that make a tensor where the program's default says."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in {("torch", name) for name in MAKERS}
        and not any(word.arg in ("device", None) for word in node.keywords)
    ]


def test_the_look_for_devices_sees():
    assert made_anywhere("torch.zeros(3)\ntorch.zeros(3, device=d)\ntorch.ones(2, **like)\nx.zeros(2)") == [
        "torch.zeros(3)"
    ]


@pytest.mark.parametrize("folder", ("fastgrad", "triton_kernels"))
def test_every_tensor_is_made_on_a_named_device(folder):
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.startswith(COMMANDS) and (calls := made_anywhere(path.read_text())):
            found[name] = calls
    buffers = [
        "torch.zeros((), dtype=torch.int64)",
        "torch.zeros(2, dtype=torch.float64)",
    ]  # those of a module go along
    assert found == ({"fastgrad.nn": buffers} if folder == "fastgrad" else {})


PLACE = {"device": "cpu", "dtype": torch.float32}


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float32, device="cpu", generator=torch.Generator().manual_seed(sum(shape)))


def network() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(24, 200, **PLACE), nn.GELU(), nn.Linear(200, 8, **PLACE))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(randn(*p.shape) / 10)
    return made


def trained(make) -> list[torch.Tensor]:
    """make: of a model, what makes its steps."""
    model = network()
    optimizer = make(model)
    for _ in range(3):
        model(randn(32, 24)).square().sum().backward()
        optimizer.step()
        model.zero_grad()
    return [p.detach() for p in model.parameters()]


def attached(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    fastgrad.attach(optimizer, normalize="autoscale", grad_format="bf16", stats="lagged")
    return optimizer


def reloaded(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = fastgrad.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(randn(32, 24)).square().sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def monitored() -> list[torch.Tensor]:
    monitors = []

    def make(model):
        optimizer = fastgrad.optim.SGD(model.parameters(), lr=0.01, grad_format="int8")
        monitors.append(fastgrad.Monitor(optimizer))
        return optimizer

    return [*trained(make), monitors[0].series(None, "q")[1]]


def in_backward() -> list[torch.Tensor]:
    x = randn(40, 8).requires_grad_()
    y = fastgrad.quantize_grad(fastgrad.normalize_grad(x, "znorm"), "fp8_e4m3", step=1)
    (fastgrad.fake_quantize(y, "int8", step=2) * randn(40, 8)).sum().backward()
    return [y.detach(), x.grad]


def saved() -> list[torch.Tensor]:
    model = network()
    with fastgrad.compress_saved_tensors("int8", step=3, min_elements=64):
        loss = model(randn(32, 24)).square().sum()
    loss.backward()
    return [p.grad for p in model.parameters()]


def cross_entropy() -> list[torch.Tensor]:
    hidden, weight = randn(16, 8).requires_grad_(), randn(50, 8).requires_grad_()
    loss = fastgrad.linear_cross_entropy(hidden, weight, torch.arange(16, device="cpu"))
    loss.backward()
    return [loss.detach(), hidden.grad, weight.grad]


def quantized_and_back() -> list[torch.Tensor]:
    stored, table = fastgrad.quantize([randn(100), randn(7, 9)], "fp4_e2m1", scale="block", block=16)
    return [table, fastgrad.shrinkage.q(table), *fastgrad.dequantize(stored)]


def int8_weights() -> list[torch.Tensor]:
    model = nn.Sequential(nn.Linear(128, 128, **PLACE))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(randn(*p.shape))
    fastgrad.quantize_weights_(model)
    optimizer = fastgrad.optim.AdamW(model.parameters(), lr=0.01, betas=(0.0, 0.99), factored=True)
    model(randn(8, 128)).square().sum().backward()
    optimizer.step()
    return list(fastgrad.weights.dense_state_dict(model).values())


def normalized(method: str) -> list[torch.Tensor]:
    tensors = [randn(40, 9), randn(77)]
    return [*tensors, fastgrad.normalize_(tensors, method)]


def adamw(**options):
    return lambda: trained(lambda model: fastgrad.optim.AdamW(model.parameters(), lr=0.01, **options))


def release() -> list[torch.Tensor]:
    def make(model):
        return fastgrad.release_gradients(model, fastgrad.optim.AdamW(model.parameters(), lr=0.01, normalize="centre"))

    return trained(make)


WORK = {
    "moments": lambda: [fastgrad.gradient_moments([randn(50)])],
    "quantize": quantized_and_back,
    **{method: (lambda m=method: normalized(m)) for method in ("znorm", "clip", "autoscale", "centralize")},
    "adamw": adamw(),
    "adamw int8": adamw(state_format="int8"),
    "adamw factored": adamw(factored=True, normalize="clip", grad_format="fp8_e4m3"),
    "sgd reloaded": lambda: trained(reloaded),
    "attached": lambda: trained(attached),
    "monitored": monitored,
    "released": release,
    "in backward": in_backward,
    "saved tensors": saved,
    "cross entropy": cross_entropy,
    "int8 weights": int8_weights,
}


@contextlib.contextmanager
def default(other: object):
    if isinstance(other, torch.dtype):
        torch.set_default_dtype(other)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with torch.device(other):
            yield


@pytest.mark.parametrize("other", ("meta", torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("engine", ("kernels", "references"))
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_results_do_not_depend_on_defaults(work, engine, other):
    with contract_backends.reference_running() if engine == "references" else contextlib.nullcontext():
        usual = work()
        with default(other):
            found = work()
    assert usual and all(map(torch.equal, usual, found))
    assert [t.dtype for t in usual] == [t.dtype for t in found]
