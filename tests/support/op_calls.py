"""Generated calls of the ops: any shape, stride, dtype, format and data, each a function of one number.

A call makes its own inputs, so that it can be run again on another backend, and gives all that it returned or wrote,
the memory around strided outputs included; of a call that is refused, what the error says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import adamw_states
import contract_data
import torch
from torch import Tensor

import fastgrad
from fastgrad.ops import sweeps

OPS = ("gradient_moments", "quantize", "normalize_", "normalize_quantize_", "sgd_step_", "adamw_step_", "aliased")
KINDS = (*contract_data.KINDS, "subnormal", "nonfinite")
WRITABLE = ("contiguous", "transposed", "every second", "unaligned", "permuted", "channels last")
LAYOUTS = (*WRITABLE, "expanded", "negated")
Results = list[Tensor] | str


@dataclass(frozen=True)
class OpCall:
    """One call. `refused`: it must be, as its arguments share memory."""

    number: int
    op: str
    what: str
    refused: bool
    run: Callable[[], Results]


def data(kind: str, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """A flat tensor; beside the kinds of the contract tests: subnormals of its type, and half NaN and infinities."""
    if kind not in ("subnormal", "nonfinite"):
        return contract_data.tensor(kind, n, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    integer = torch.int32 if dtype == torch.float32 else torch.int16
    mantissa = {torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}[dtype]
    exponents = 0x1F if dtype == torch.float16 else 0xFF
    bits = torch.randint(0, 1 << mantissa, (n,), generator=generator)
    if kind == "subnormal":
        bits >>= torch.randint(0, mantissa, (n,), generator=generator)
    else:
        chosen = torch.randint(0, 4, (n,), generator=generator)
        bits = torch.where(chosen == 0, 0, bits)
        bits |= torch.where(chosen < 2, exponents, exponents // 2 - chosen) << mantissa
    bits -= torch.randint(0, 2, (n,), generator=generator) << (integer.itemsize * 8 - 1)
    return bits.to(integer).view(dtype)


@dataclass(frozen=True)
class Recipe:
    """How a tensor is made; `make` gives it and the memory that it is a view of."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    layout: str
    seed: int

    def make(self) -> tuple[Tensor, Tensor]:
        n = torch.Size(self.shape).numel()
        if self.layout == "every second":
            base = data(self.kind, 2 * n, self.dtype, self.seed)
            return base[::2].view(self.shape) if len(self.shape) < 2 else base.view(*self.shape, 2)[..., 0], base
        if self.layout == "unaligned":
            base = data(self.kind, n + 3, self.dtype, self.seed)
            return base[1 : n + 1].view(self.shape), base
        base = data(self.kind, n, self.dtype, self.seed)
        if self.layout == "negated":  # as gradients through complex conjugates are
            base = -base
            return torch._neg_view(base).view(self.shape), base
        if self.layout == "channels last" and len(self.shape) == 4:
            a, b, c, d = self.shape
            return base.view(a, c, d, b).permute(0, 3, 1, 2), base
        if self.layout == "permuted" and len(self.shape) >= 3:
            order = (1, 2, 0, *range(3, len(self.shape)))
            inverse = [order.index(i) for i in range(len(order))]
            return base.view([self.shape[i] for i in order]).permute(inverse), base
        if self.layout == "transposed" and len(self.shape) >= 2:
            return base.view(*self.shape[:-2], self.shape[-1], self.shape[-2]).transpose(-1, -2), base
        if self.layout == "expanded" and len(self.shape) >= 2:
            base = data(self.kind, self.shape[-1], self.dtype, self.seed)
            return base.expand(self.shape), base
        return base.view(self.shape), base


class Choices:
    """Draws of one call."""

    def __init__(self, number: int) -> None:
        self.rng = random.Random(number)
        self.one = self.rng.choice

    def often(self, usual: object, *others: object) -> object:
        return usual if self.rng.random() < 0.6 else self.one(others)

    def shape(self) -> tuple[int, ...]:
        size = self.one((0, 1, 2, 5, 16, 17, 33, 64, 127, 128, 129, 500, 1024, 1025, 1500))
        dims = self.rng.randrange(5)
        if self.rng.random() < 0.004:
            size, dims = self.one((65_535, 65_537, 70_000)), 1
        if dims == 0:
            return ()
        if dims == 1:
            return (size,)
        shape = [self.one((1, 2, 3, 4, 7, 16)) for _ in range(dims - 1)]
        rest = max(size // torch.Size(shape).numel(), 1 if size else 0)
        if self.rng.random() < 0.3:
            rest = -(-rest // 16) * 16  # rows of whole blocks
        return (*shape, rest)

    def recipe(self, *, written: bool, shape: tuple[int, ...] | None = None) -> Recipe:
        layouts = WRITABLE if written else LAYOUTS
        return Recipe(
            self.shape() if shape is None else shape,
            self.one(contract_data.DTYPES),
            self.one(KINDS),
            self.often("contiguous", *layouts),
            self.rng.randrange(2**31),
        )

    def noise(self, count: int) -> dict:
        ids = [self.rng.randrange(2**18) for _ in range(count)] if self.rng.random() < 0.3 else None
        return {
            "seed": self.one((0, 1, 2**64 - 1, self.rng.randrange(2**64))),
            "step": self.one((0, 1, 2**31 - 1)),
            "slot": self.one((0, 0, 2**12 - 1)),
            "ids": ids,
        }

    def quantizer(self) -> dict:
        format = self.one(sweeps.FORMATS)
        scale = "none" if format == "fp32" else self.one(sweeps.SCALES)
        return {
            "format": format,
            "rounding": self.often(*sweeps.ROUNDINGS),
            "scale": scale,
            "block": self.one(sweeps.BLOCKS),
            "pow2": self.rng.random() < 0.3,
        }

    def normalizer(self) -> dict:
        return {
            "method": self.one(sweeps.METHODS),
            "max_norm": self.one((0.0, 1e-3, 1.0, 1e30)),
            "alpha": self.one(sweeps.ALPHAS[:-1]),
        }

    def state(self) -> tuple[float, float]:
        return self.one(((0.0, 0.0), (0.5, 2.0), (1e-30, 1e30)))


def made(recipes: list[Recipe]) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [recipe.make() for recipe in recipes]
    return [t for t, _ in pairs], [base for _, base in pairs]


def _gradient_moments(c: Choices) -> Callable[[], Results]:
    recipes = [c.recipe(written=False) for _ in range(c.rng.randrange(1, 4))]
    return lambda: [fastgrad.gradient_moments(made(recipes)[0])]


def _quantize(c: Choices) -> Callable[[], Results]:
    recipes = [c.recipe(written=False) for _ in range(c.rng.randrange(1, 4))]
    options = c.quantizer() | c.noise(len(recipes))
    options |= {"purpose": c.one(sweeps.PURPOSES), "moments": c.one((False, True))}
    given = [2.0 ** c.rng.randrange(-126, 100) * 1.5 for _ in recipes]
    if options["scale"] == "tensor" and c.rng.random() < 0.3:
        options["scale"] = None
    again, twice = c.rng.random() < 0.2, c.rng.random() < 0.1
    dtype = c.one((None, *contract_data.DTYPES))

    def run() -> Results:
        tensors, bases = made(recipes)
        if twice:
            tensors = [tensors[0]] * len(tensors)  # what is only read may be shared
        own = options
        if options["scale"] is None:
            own = options | {"scale": [torch.tensor([s]) for s in given]}
        stored, table = fastgrad.quantize(tensors, **own)
        if again:
            stored, table = fastgrad.quantize([t.clone() if twice else t for t in tensors], out=stored, **own)
        values = fastgrad.dequantize(stored, dtype)
        return [table, *(q.codes for q in stored), *(q.scale for q in stored), *values, *bases]

    return run


def _normalize(c: Choices, quantizes: bool) -> Callable[[], Results]:
    recipes = [c.recipe(written=True) for _ in range(c.rng.randrange(1, 4))]
    options = c.normalizer() | {"eps": c.one((0.0, 1e-8, 1.0))}
    if options["method"] == "none" and not quantizes:
        options["method"] = "znorm"
    stats, state = c.one(("auto", "two_reads", "lagged")), c.state()
    if quantizes:
        options |= c.quantizer() | c.noise(len(recipes)) | {"skip_nonfinite": c.rng.random() < 0.2}
        if c.rng.random() < 0.3:
            options["flags"] = [c.rng.randrange(4) for _ in recipes]
    op = fastgrad.normalize_quantize_ if quantizes else fastgrad.normalize_

    def run() -> Results:
        tensors, bases = made(recipes)
        own = options | {"stats": stats, "state": torch.tensor(state, dtype=torch.float64)}
        results = []
        if stats == "lagged":
            before, _ = made(recipes)
            own["previous"] = op([t * 0.5 for t in before], **options)
            results.append(own["previous"])
        results.append(op(tensors, **own))
        return [*results, own["state"], *tensors, *bases]

    return run


def _step_options(c: Choices, count: int) -> dict:
    options = c.normalizer() | c.quantizer() | c.noise(count)
    options |= {
        "inv_scale": c.often(1.0, 0.37, 2.0**-16),
        "measure": c.one((False, True)),
        "skip_nonfinite": c.rng.random() < 0.2,
        "weight_rounding": c.one(("nearest", "stochastic")),
        "two_reads": c.rng.random() < 0.3,
        "groups": [c.rng.randrange(2) for _ in range(count)],
        "flags": [c.rng.randrange(8) for _ in range(count)],
    }
    return options


def _sgd_step(c: Choices) -> Callable[[], Results]:
    params = [c.recipe(written=True) for _ in range(c.rng.randrange(1, 4))]
    grads = [c.recipe(written=False, shape=p.shape) for p in params]
    momentum = c.one((0.0, 0.9))
    momenta = [c.recipe(written=True, shape=p.shape) for p in params] if momentum else []
    options, state = _step_options(c, len(params)), c.state()
    hyper = [[c.one((0.1, 1e3)), momentum, c.one((0.0, 0.1)), c.one((0.0, 0.01)), c.one((0, 1)) if momentum else 0]]
    hyper = [[*row, c.one((0, 1)), c.one((0, 1)), 0] for row in hyper * 2]
    factors = [c.rng.uniform(0.5, 2.0) for _ in params] if c.rng.random() < 0.4 else None

    def run() -> Results:
        (p, p_bases), (g, _), (m, m_bases) = made(params), made(grads), made(momenta)
        own = options | {"state": torch.tensor(state, dtype=torch.float64)}
        own["factors"] = None if factors is None else torch.tensor(factors, dtype=torch.float64)
        table = fastgrad.sgd_step_(p, g, m, torch.tensor(hyper, dtype=torch.float64), **own)
        return [table, own["state"], *p, *m, *p_bases, *m_bases]

    return run


def _adamw_step(c: Choices) -> Callable[[], Results]:
    shapes = [c.shape() for _ in range(c.rng.randrange(1, 4))]
    params = [Recipe(s, torch.float32, c.often("normal", *KINDS), "contiguous", c.rng.randrange(2**31)) for s in shapes]
    grads = [c.recipe(written=False, shape=p.shape) for p in params]
    beta1 = c.one((0.0, 0.9))
    kind, weights = c.one(adamw_states.KINDS), c.one((*contract_data.DTYPES, torch.int8))
    if weights == torch.int8:  # its scales are made of finite numbers
        params = [Recipe(p.shape, p.dtype, "normal", p.layout, p.seed) for p in params]
    options, state = _step_options(c, len(params)), c.state()
    hyper = [[lr, beta1, 0.99, c.one((1e-8, 1e-3)), c.one((0.0, 0.1)), c.one((0, 1)), 0, 0] for lr in (0.1, 1e-3)]
    ages, seed = [c.rng.randrange(1, 2000) for _ in params], c.rng.randrange(2**31)
    fresh = c.rng.random() < 0.3
    if fresh:
        options["flags"] = [flags | 4 for flags in options["flags"]]

    def run() -> Results:
        states = adamw_states.new_states(made(params)[0], weights, kind, beta1, poison=fresh, seed=seed)
        own = options | {"state": torch.tensor(state, dtype=torch.float64)}
        rows = torch.tensor(hyper, dtype=torch.float64)
        table = fastgrad.adamw_step_(grads=made(grads)[0], hyper=rows, ages=ages, **states, **own)
        kept = [t for value in states.values() if isinstance(value, list) for t in value]
        return [table, own["state"], *kept]

    return run


def _aliased(c: Choices) -> Callable[[], Results]:
    """Arguments that are written and share memory with another: refused, and nothing is written."""
    shape = (c.one((2, 3, 5)), c.one((16, 33, 500)))
    recipe, other = c.recipe(written=True, shape=shape), c.recipe(written=True, shape=shape)
    form = c.one(("twice", "shifted", "expanded", "parameter is gradient", "momentum is parameter", "row of another"))
    options, hyper = c.normalizer() | {"method": "znorm"}, [[0.1, 0.9, 0, 0, 0, 0, 0, 0]]

    def run() -> Results:
        x, base = recipe.make()
        y, other_base = other.make()
        flat = data(recipe.kind, 1000, recipe.dtype, recipe.seed)
        before = [t.clone() for t in (base, other_base, flat)]
        calls = {
            "twice": lambda: fastgrad.normalize_([x, y, x], **options),
            "shifted": lambda: fastgrad.normalize_([flat[:-1], flat[1:]], **options),
            "expanded": lambda: fastgrad.normalize_([flat[:7].expand(3, 7)], **options),
            "row of another": lambda: fastgrad.normalize_([x, x[1]], **options),
            "parameter is gradient": lambda: fastgrad.sgd_step_([x], [x], [y], torch.tensor(hyper).double()),
            "momentum is parameter": lambda: fastgrad.sgd_step_([x], [y], [x], torch.tensor(hyper).double()),
        }
        try:
            calls[form]()
        except ValueError as error:
            after = zip(before, (base, other_base, flat), strict=True)
            unchanged = all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in after)
            return f"refused: {error}" if unchanged else "refused, after something was written"
        return "not refused"

    return run


_MAKERS: dict[str, Callable[[Choices], Callable[[], Results]]] = {
    "gradient_moments": _gradient_moments,
    "quantize": _quantize,
    "normalize_": lambda c: _normalize(c, False),
    "normalize_quantize_": lambda c: _normalize(c, True),
    "sgd_step_": _sgd_step,
    "adamw_step_": _adamw_step,
    "aliased": _aliased,
}


def op_call(number: int) -> OpCall:
    """The call of that number."""
    c = Choices(number)
    op = c.rng.choices(OPS, weights=(2, 5, 2, 4, 4, 4, 1))[0]
    run = _MAKERS[op](c)
    drawn = dict(zip(run.__code__.co_freevars, (cell.cell_contents for cell in run.__closure__ or ()), strict=True))
    return OpCall(number, op, f"{op}: {drawn}", op == "aliased", run)
