"""What is done to gradients: the options shared by our optimizers and by ``attach``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import Parameter

from fastgrad.library import NUMERICS_VERSION
from fastgrad.ops import checks
from fastgrad.ops.normalize_quantize import STATS, Alpha, default_scale
from fastgrad.ops.sweeps import COLUMNS, FORMATS, METHODS, NORMALIZE, QUANTIZE, ROUNDINGS, SCALES
from fastgrad.reference.philox import DEFAULT_SEED, STEP_RANGE

Eligible = Callable[[Parameter, dict], tuple[bool, bool]]
Observer = Callable[[int, Tensor, list[Parameter]], None]

NONFINITE = ("propagate", "skip", "error")
LARGEST_COMPENSATION = 4.0


@dataclass(frozen=True)
class Treatment:
    """Options of normalization, quantization and their safety; see :class:`fastgrad.optim.SGD`."""

    normalize: str | None = None
    alpha: Alpha = "ratio_first"
    eps: float = 1e-8
    max_norm: float = 1.0
    grad_format: str | None = None
    rounding: str = "stochastic"
    scale: str | None = None
    block: int = 128
    pow2: bool = False
    stats: str = "auto"
    nonfinite: str = "propagate"
    compensate: str | None = None
    eligible: Eligible | None = None
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        checks.one_of("normalize", self.normalize, (None, *METHODS))
        if not callable(self.alpha):
            checks.one_of("alpha", self.alpha, checks.RULES)
        checks.one_of("grad_format", self.grad_format, (None, *FORMATS))
        checks.one_of("rounding", self.rounding, ROUNDINGS)
        checks.one_of("scale", self.scale, (None, *SCALES))
        checks.one_of("stats", self.stats, STATS)
        checks.one_of("nonfinite", self.nonfinite, NONFINITE)
        checks.one_of("compensate", self.compensate, (None, "q"))
        checks.quantizer(self.format, self.rounding, self.scale_kind, self.block)
        if self.compensate and self.format == "fp32":
            raise ValueError("compensate: 'q' needs a grad_format, expected one of " + ", ".join(FORMATS[1:]))

    @property
    def method(self) -> str:
        return self.normalize or "none"

    @property
    def format(self) -> str:
        return self.grad_format or "fp32"

    @property
    def scale_kind(self) -> str:
        return default_scale(self.format) if self.scale is None else self.scale

    @property
    def reads_table(self) -> bool:
        """Whether a step depends on the table of the last one."""
        return self.stats == "lagged" or self.compensate is not None

    def with_nonfinite(self, policy: str) -> Treatment:
        return replace(self, nonfinite=policy)

    def flags(self, parameter: Parameter, group: dict) -> int:
        """NORMALIZE | QUANTIZE for one parameter: the rule, then the group's opt-outs."""
        normalize, quantize = (self.eligible or self.default_eligible)(parameter, group)
        return (NORMALIZE if normalize and group.get("normalize", True) else 0) | (
            QUANTIZE if quantize and group.get("quantize", True) else 0
        )

    def default_eligible(self, parameter: Parameter, group: dict) -> tuple[bool, bool]:
        """(normalize, quantize): weights of two or more dimensions are normalized (for clip: everything, as
        ``clip_grad_norm_`` does); everything is quantized."""
        return parameter.dim() > 1 or self.method == "clip", True

    def describe(self) -> str:
        """What happens to a gradient, in words."""
        parts = []
        if self.method != "none":
            rule = getattr(self.alpha, "__name__", self.alpha)
            said = {"autoscale": f" (alpha={rule})", "clip": f" (max_norm={self.max_norm:g})"}
            parts.append(f"{self.method}{said.get(self.method, '')}")
        if self.format != "fp32":
            scale = {"none": "", "tensor": ", scale per tensor", "block": f", scale per {self.block}"}
            parts.append(f"{self.rounding} rounding to {self.format}{scale[self.scale_kind]}")
        text = " -> ".join(parts) if parts else "as it is"
        if parts and self.stats == "lagged":
            text += ", statistics of the last step"
        if self.compensate:
            text += ", step divided by its shrinkage"
        return text + {"propagate": "", "skip": "; NaN skips the step", "error": "; NaN is an error"}[self.nonfinite]


class Progress:
    """What a treatment carries from step to step: the noise step, alpha's state, the last table."""

    def __init__(self) -> None:
        self.step = 0
        # The step on the device, int64 [1], where steps can be captured: replays move it on, which `step` does not see.
        self.clock: Tensor | None = None
        self.skipped = 0
        self.alpha_state = torch.zeros(2, dtype=torch.float64, device="cpu")
        self.table: Tensor | None = None
        self.ids: list[int] = []  # the parameters the table's rows belong to

    def on(self, device: torch.device) -> Progress:
        """Itself, with what the kernels read and write on the device of the parameters."""
        if self.alpha_state.device != device:
            self.alpha_state = self.alpha_state.to(device)
            self.table = None if self.table is None else self.table.to(device)
        return self

    def clock_on(self, device: torch.device) -> Tensor:
        """The noise step in memory, for captured graphs."""
        if self.clock is None or self.clock.device != device:
            self.clock = torch.tensor([self.step if self.clock is None else int(self.clock)], device=device)
        return self.clock

    def lagged_for(self, ids: list[int], stats: str) -> Tensor | None:
        """The last table, if it has the same rows; otherwise this step uses its own statistics."""
        return self.table if stats == "lagged" and self.table is not None and self.ids == ids else None

    def advance(self, table: Tensor, ids: list[int], skipped: bool) -> None:
        self.step = (self.step + 1) % STEP_RANGE
        if self.clock is not None:
            self.clock.add_(1)
        if skipped:
            self.skipped += 1
        else:
            self.table, self.ids = table, ids

    def replayed(self) -> int:
        """Steps of captured graphs since it was last asked, which the host did not see."""
        if self.clock is None:
            return 0
        missed, self.step = int(self.clock) - self.step, int(self.clock)
        return missed

    def state_dict(self, count: int | None = None, *, with_table: bool = True) -> dict:
        """count: of all parameters. The table then has a row for each of them, whether it had a gradient or not:
        torch.distributed.checkpoint loads into tensors of the size that was saved."""
        table = self.table if with_table else None
        if table is not None and count is not None:
            rows = table.new_zeros(count + 1, COLUMNS)
            rows[[*self.ids, -1]] = table
            table = rows
        return {
            "numerics_version": NUMERICS_VERSION,
            "step": self.step,
            "skipped": self.skipped,
            "alpha_state": self.alpha_state.clone(),
            "table": None if table is None else table.clone(),
            "ids": list(self.ids),
        }

    @staticmethod
    def check(state: dict) -> None:
        """Refuses what :meth:`load_state_dict` could not take."""
        missing = [name for name in Progress().state_dict() if name not in state]
        if missing:
            raise ValueError(f"state_dict: 'fastgrad' lacks {', '.join(missing)}")
        alpha, table, ids = state["alpha_state"], state["table"], state["ids"]
        if tuple(alpha.shape) != (2,):
            raise ValueError(f"state_dict: alpha_state of 'fastgrad': expected 2 numbers, got {list(alpha.shape)}")
        rows = 1 + len(ids)
        if table is not None and tuple(table.shape) != (rows, COLUMNS):
            rows = 2 + max(ids, default=-1)
            if table.dim() != 2 or table.shape[0] < rows or table.shape[1] != COLUMNS:
                raise ValueError(
                    f"state_dict: table of 'fastgrad': expected at least {rows} rows of {COLUMNS}, got "
                    f"{list(table.shape)}"
                )

    def load_state_dict(self, state: dict) -> None:
        self.check(state)
        if state["numerics_version"] != NUMERICS_VERSION:
            import warnings

            warnings.warn(
                f"the checkpoint was made with numerics version {state['numerics_version']}, this is version "
                f"{NUMERICS_VERSION}: training continues, but not with the bits of the uninterrupted run",
                stacklevel=3,
            )
        self.step, self.skipped, self.ids = state["step"], state["skipped"], list(state["ids"])
        if self.clock is not None:
            self.clock.fill_(self.step)
        self.alpha_state = state["alpha_state"].clone().cpu().double()
        table = state["table"]
        if table is not None:
            table = table.clone() if table.shape[0] == 1 + len(self.ids) else table[[*self.ids, -1]]
        self.table = table


class Observers:
    """Functions called with (step, table, parameters) after every step."""

    def __init__(self) -> None:
        self._functions: dict[int, Observer] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._functions)

    def add(self, function: Observer) -> ObserverHandle:
        self._next += 1
        self._functions[self._next] = function
        return ObserverHandle(self._functions, self._next)

    def notify(self, step: int, table: Tensor, parameters: list[Parameter]) -> None:
        for function in list(self._functions.values()):
            function(step, table, parameters)


@dataclass(frozen=True)
class ObserverHandle:
    """Removes an observer."""

    functions: dict[int, Observer]
    key: int

    def remove(self) -> None:
        self.functions.pop(self.key, None)


def refuse_sparse(gradient: Tensor, name: str) -> None:
    if gradient.layout is not torch.strided:
        raise TypeError(
            f"{name}: its gradient is sparse ({gradient.layout}); expected a dense one (nn.Embedding: sparse=False)"
        )


def nonfinite_message(table: Tensor, names: list[str]) -> str:
    rows = torch.nonzero(table[:-1, 5]).flatten().tolist()
    found = ", ".join(f"{names[i]} ({int(table[i, 5])} of {int(table[i, 0] + table[i, 5])} elements)" for i in rows[:5])
    more = f" and {len(rows) - 5} more parameters" if len(rows) > 5 else ""
    return f"gradient holds NaN or infinity: {found}{more}; nothing was updated"


def parameter_names(groups: list[dict]) -> list[str]:
    """Names of all parameters of an optimizer, by their place: the given ones, or group and index."""
    names = []
    for g, group in enumerate(groups):
        given = group.get("param_names")
        for i, p in enumerate(group["params"]):
            names.append(given[i] if given else f"param_groups[{g}]['params'][{i}] {list(p.shape)}")
    return names
