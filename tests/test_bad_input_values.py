"""Bad numbers and unfit tensors are refused by name, with nothing written, and never reach the native code.

All calls run in processes of their own: unchecked, some of them end the interpreter.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PREPARED = """
import dataclasses, torch, fastgrad
F64 = torch.float64
x, y, z = torch.randn(8), torch.randn(8), torch.randn(8)
before = [t.clone() for t in (x, y, z)]
hyper = torch.tensor([[0.1, 0.9, 0, 0, 0, 0, 0, 0]], dtype=F64)
stored, _ = fastgrad.quantize(x, "int8")
def step(p=[x], g=[y], m=[z], h=hyper, **options):
    options.setdefault("format", "bf16")
    return fastgrad.sgd_step_(p, g, m, h, **options)
"""
TRIED = """
try:
    {code}
except (TypeError, ValueError) as error:
    kept = all(torch.equal(a, b) for a, b in zip((x, y, z), before))
    print("refused:" if kept else "refused after writing:", str(error).replace("\\n", " "))
except BaseException as error:
    print("raised", type(error).__name__)
else:
    print("accepted")
"""
# Calls that show that the trials below can tell.
REFUSED = "fastgrad.normalize_([x], 'nonsense')"
ACCEPTED = "fastgrad.normalize_([x], 'centre')"

# What each call should be refused for: a word of the message.
UNFIT = {
    "hyper": (
        "step(h=hyper[:, :7].contiguous())",
        "step(h=hyper[0])",
        "step(h=torch.zeros(0, 8, dtype=F64))",
    ),
    "state": (
        "step(method='autoscale', state=torch.zeros(1, dtype=F64))",
        "fastgrad.normalize_([x], 'autoscale', state=torch.zeros(3, dtype=F64))",
        "fastgrad.normalize_([x], 'autoscale', state=x[:4].view(F64))",
    ),
    "groups": ("step(groups=[-1])", "step(groups=[1])", "step(groups=[0, 0])"),
    "flags": ("step(flags=[64])",),
    "ids": (
        "fastgrad.quantize([x], 'bf16', ids=[2**18])",
        "fastgrad.quantize([x], 'bf16', ids=[-1])",
        "fastgrad.normalize_quantize_([x], 'none', 'bf16', ids=[2**18])",
        "step(ids=[2**18])",
    ),
    "step": (
        "step(step=-1)",
        "step(step=2**31)",
        "fastgrad.quantize([x], 'bf16', step=1.5)",
        "fastgrad.quantize([x], 'bf16', step='1')",
    ),
    "slot": ("step(slot=4096)",),
    "seed": ("fastgrad.quantize([x], 'bf16', seed=1.5)", "fastgrad.quantize([x], 'bf16', seed=2**64)"),
    "scale": (
        "fastgrad.quantize(x, 'int8', scale=torch.zeros(1))",
        "fastgrad.quantize(x, 'int8', scale=-torch.ones(1))",
        "fastgrad.quantize(x, 'int8', scale=torch.tensor([torch.nan]))",
        "fastgrad.quantize(x, 'int8', scale=torch.tensor([torch.inf]))",
        "fastgrad.quantize(x, 'int8', scale=torch.tensor([1e-40]))",
        "fastgrad.quantize(x, 'int8', scale=torch.ones(1, device='meta'))",
        "fastgrad.dequantize(dataclasses.replace(stored, scale=stored.scale.to('meta')))",
        "fastgrad.quantize([x], 'int8', scale=1.0)",
        "fastgrad.quantize([x], 'int8', scale=['tensor'])",
    ),
    "eps": (
        "fastgrad.normalize_([x], 'znorm', eps=-1.0)",
        "fastgrad.normalize_([x], 'znorm', eps=torch.nan)",
    ),
    "max_norm": (
        "fastgrad.normalize_([x], 'clip', max_norm=-1.0)",
        "fastgrad.normalize_([x], 'clip', max_norm=torch.nan)",
    ),
    "codes": ("fastgrad.quantize(y, 'int8', out=dataclasses.replace(stored, codes=stored.codes[:7]))",),
    "out": (
        "fastgrad.quantize(y[:7], 'int8', out=stored)",
        "fastgrad.quantize(y, 'int4', out=stored)",
        "fastgrad.quantize([y, x], 'int8', out=[stored])",
        "fastgrad.quantize(y, 'int8', scale='block', block=16, out=stored)",
        "fastgrad.quantize(y, 'int8', out=dataclasses.replace(stored, codes=stored.codes.int()))",
        "fastgrad.quantize(y, 'int8', out=dataclasses.replace(stored, codes=torch.zeros(16, dtype=torch.int8)[::2]))",
        "fastgrad.quantize(y, 'int8', out=dataclasses.replace(stored, codes=stored.codes.to('meta')))",
        "fastgrad.quantize(y, 'int8', out=dataclasses.replace(stored, scale=torch.ones(1, dtype=F64)))",
        "fastgrad.quantize([y, x], 'int8', out=[stored, stored])",
    ),
    "alpha": (
        "fastgrad.normalize_([x], 'autoscale', alpha=lambda sigma, state: torch.nan)",
        "fastgrad.normalize_([x], 'autoscale', alpha=None)",
    ),
    "requires grad": ("fastgrad.normalize_([x.requires_grad_()], 'centre')", "step(p=[x.requires_grad_()])"),
    "memory": (
        "step(m=[x])",
        "step(g=[x])",
        "step(p=[x, y], g=[x + 1, y + 1], m=[z, z])",
    ),
    "expected device": ("step(g=[y.to('meta')])",),
    "tensors": ("fastgrad.normalize_(x, 'centre')", "fastgrad.gradient_moments(x)"),
    "format": ("fastgrad.dequantize(dataclasses.replace(stored, format='nonsense'))",),
    "stride": ("fastgrad.dequantize(dataclasses.replace(stored, stride=(3,)))",),
}
CRASHES = {
    "groups": "step(groups=[10**9])",
    "momenta": "step(m=[])",
    "stride": "fastgrad.dequantize(dataclasses.replace(stored, shape=(8, 100), stride=(0, 0), "
    "codes=torch.zeros(800, dtype=torch.int8)))",
}


# Of those above, what is still accepted.


CASES = [
    pytest.param(named, code)
    for named, tried in UNFIT.items()
    for code in tried
]


def run_trials(codes: list[str]) -> subprocess.CompletedProcess:
    """All in one process, every call on tensors of its own; one line of output each."""
    script = "import warnings; warnings.simplefilter('ignore')\n"
    script += "".join(PREPARED + TRIED.format(code=code) for code in codes)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    codes = [REFUSED, ACCEPTED, *(code for tried in UNFIT.values() for code in tried)]
    done = run_trials(codes)
    assert done.returncode == 0, done.stderr
    return dict(zip(codes, done.stdout.splitlines(), strict=True))


def test_trials_can_tell(outcomes):
    assert outcomes[REFUSED].startswith("refused: method: expected one of none, centre")
    assert outcomes[ACCEPTED] == "accepted"


@pytest.mark.parametrize("named, code", CASES)
def test_refused(named, code, outcomes):
    assert outcomes[code].startswith("refused:") and named in outcomes[code], outcomes[code]


@pytest.mark.parametrize("named, code", CRASHES.items())
def test_does_not_crash(named, code):
    done = run_trials([code])
    assert done.returncode == 0, f"exit status {done.returncode}"
    assert done.stdout.startswith("refused:") and named in done.stdout, done.stdout
