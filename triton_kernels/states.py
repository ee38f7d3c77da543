"""What AdamW keeps of a list of tensors, as the kernels are told of it, and the launches it needs of its own.

    constants                       of the steps of all tensors
    clear, squares                  of factored second moments: their exact sums, where the call makes them
    means                           ... and what follows from those
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from fastgrad.reference.adamw import States

from . import formats, jobs, tables
from .adamw import CODES4, CODES8, FACTORED, constants_kernel
from .factored import SQUARE_COLUMNS, clear_kernel, means_kernel, squares_kernel
from .options import INTERPRETED, ONE_WARP, TILES, warps, warps_for
from .tables import ABSENT, Jobs, common_type, is_aligned

CONSTANTS_BLOCK = 128  # tensors of a program
MEANS_BLOCK = 1024
SQUARE_ROWS = 8 * TILES  # at once
SQUARE_REPEATS = 2 if INTERPRETED else 8
_SECONDS = {
    **{name: formats.NAMES.index(name) for name in ("fp32", "bf16", "fp16")},
    "codes8": CODES8.value,
    "codes4": CODES4.value,
    "factored": FACTORED.value,
}
LISTS = ("param_scales", "exp_avgs", "exp_avg_scales", "exp_avg_sqs", "exp_avg_sq_scales")
NO_STATES = {"FIRSTS": ABSENT, "SECONDS": ABSENT, "PARAM_BLOCK": 0, "FIRST_BLOCK": 0, "SECOND_BLOCK": 0}


def _block(n: int, scales: Tensor) -> int:
    return n // scales.numel() if scales.numel() else 0


def _places(lengths: Sequence[int], base: Tensor) -> list[int]:
    """Addresses of runs of so many numbers in a work space."""
    starts = accumulate(lengths, initial=0)
    return [base.data_ptr() + start * base.element_size() for start, _ in zip(starts, lengths, strict=False)]


class Adamw:
    """The states of a list of parameters."""

    def __init__(self, params: Sequence[Tensor], states: States, rows: Sequence[int]) -> None:
        self.states, self.count = states, len(params)
        self.sizes = [p.numel() for p in params]
        self.kinds = [self._kind(i, p) for i, p in enumerate(params)]
        self.factored = [i for i, n in enumerate(self.sizes) if n and states.is_factored(i)]
        self.rows = [rows[i] for i in self.factored]
        self.columns = [self.sizes[i] // rows[i] for i in self.factored]
        self.makes_sums = bool(self.factored) and states.phase != "update"
        self.needs_bounds = self.makes_sums and states.bounds is None
        self.work: list[Tensor] = []  # kept until the kernels are launched

    def _kind(self, i: int, param: Tensor) -> tuple[tuple[str, int], ...]:
        """How a parameter and its states are kept: compile-time arguments of a kernel."""
        states, n = self.states, self.sizes[i]
        scales, firsts = states.param_scales[i], states.exp_avgs[i]
        seconds = states.second_kind(i, n)
        return (
            ("PARAMS", formats.NAMES.index("int8") if param.dtype == torch.int8 else tables.TYPES[param.dtype]),
            ("PARAM_BLOCK", _block(n, scales)),
            ("FIRSTS", formats.NAMES.index(states.first_format(i)) if firsts.numel() else ABSENT),
            ("FIRST_BLOCK", _block(n, states.exp_avg_scales[i])),
            ("SECONDS", _SECONDS[seconds]),
            ("SECOND_BLOCK", 0 if seconds == "factored" else _block(n, states.exp_avg_sq_scales[i])),
        )

    def is_aligned(self, tensors: Sequence[int]) -> bool:
        """Whether the numbers and codes of the states of some tensors start at multiples of 16 bytes."""
        return is_aligned(*([getattr(self.states, name)[i] for i in tensors] for name in ("exp_avgs", "exp_avg_sqs")))

    def tell(self, told: Jobs) -> Tensor:
        """Fills in what the kernels read; gives the tensor of every program that sums squares."""
        states = self.states
        columns = (jobs.PARAM_SCALES, jobs.FIRST_MOMENT, jobs.FIRST_SCALES, jobs.SECOND_MOMENT, jobs.SECOND_SCALES)
        for name, column in zip(LISTS, columns, strict=True):
            told.set_tensors(getattr(states, name), column)
        told.set(jobs.AGE, states.ages)
        if not self.factored:
            return torch.empty(0, dtype=torch.int64, device="cpu")
        device = states.exp_avg_sqs[self.factored[0]].device
        whole = self.rows
        if states.whole_rows is not None:
            whole = [states.whole_rows[i] for i in self.factored]
        lengths = [*self.rows, *self.columns]
        roots = _places(lengths, self._work(sum(lengths), torch.float32, device))
        leaves = _places(self.columns, self._work(sum(self.columns), torch.float64, device))
        if states.phase == "all":
            sums = _places(lengths, self._work(sum(lengths), torch.float64, device))
        else:
            sums = [made[i].data_ptr() for made in (states.row_sums, states.column_sums) for i in self.factored]
        half = len(self.factored)
        programs = [
            -(-rows // (SQUARE_ROWS * SQUARE_REPEATS)) * -(-columns // SQUARE_COLUMNS.value)
            for rows, columns in zip(self.rows, self.columns, strict=True)
        ]
        values = {
            jobs.MATRIX_ROWS: self.rows,
            jobs.MATRIX_COLUMNS: self.columns,
            jobs.WHOLE_ROWS: whole,
            jobs.LONGEST_BITS: [(max(r, c) - 1).bit_length() for r, c in zip(whole, self.columns, strict=True)],
            jobs.SQUARE_SPAN: list(accumulate(programs, initial=0))[:half],
            jobs.ROW_SUMS: sums[:half],
            jobs.COLUMN_SUMS: sums[half:],
            jobs.ROW_ROOTS: roots[:half],
            jobs.COLUMN_ROOTS: roots[half:],
            jobs.COLUMN_LEAVES: leaves,
        }
        if states.bounds is not None:
            bounds = torch.tensor([states.bounds[i] for i in self.factored], dtype=torch.float32, device="cpu")
            values[jobs.BOUND] = bounds.view(torch.int32).tolist()
        for column, numbers in values.items():
            told.rows[self.factored, column.value] = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        return torch.repeat_interleave(torch.tensor(self.factored, device="cpu"), torch.tensor(programs, device="cpu"))

    def _work(self, numbers: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        self.work.append(torch.empty(numbers, dtype=dtype, device=device))
        return self.work[-1]

    def make_constants(self, told: Tensor, clock: Tensor | None, hyper: Tensor, factors: Tensor | None) -> Tensor:
        """float64 [T, 8]: what is the same for all elements of a tensor."""
        constants = torch.empty(self.count, jobs.CONSTANTS.value, dtype=torch.float64, device=told.device)
        constants_kernel[(-(-self.count // CONSTANTS_BLOCK),)](
            told, clock, hyper, factors, constants, self.count,
            CLOCK=clock is not None, FACTORS=factors is not None, BLOCK=CONSTANTS_BLOCK,
            **warps_for(CONSTANTS_BLOCK),
        )  # fmt: skip
        return constants

    def sum_squares(
        self, told: Tensor, tensors: Tensor, spans: Tensor, header: Tensor, grads: Sequence[Tensor],
        coefficients: Tensor | None, skip: Tensor | None, means: Tensor | None, unscale: bool, mapped: bool,
    ) -> None:  # fmt: skip
        """The sums of squares of all factored tensors, `tensors`, by the programs of `spans`."""
        clear_kernel[(len(self.factored),)](
            told, tensors, skip, SKIP=skip is not None, BLOCK=MEANS_BLOCK, **warps_for(MEANS_BLOCK)
        )
        own = [grads[i] for i in self.factored]
        squares_kernel[(spans.numel(),)](
            told, spans, header, coefficients, skip, means, self.count,
            GRADS=common_type(own),
            UNSCALE=unscale,
            MAPPED=mapped,
            CENTRALIZED=means is not None,
            GIVEN_BOUND=not self.needs_bounds,
            SKIP=skip is not None,
            ALIGNED=is_aligned(own) and all(c % 8 == 0 for c in self.columns),
            ROWS=SQUARE_ROWS,
            REPEATS=SQUARE_REPEATS,
            **ONE_WARP,
        )  # fmt: skip

    def move_means(
        self, told: Tensor, tensors: Tensor, coefficients: Tensor | None, constants: Tensor | None, skip: Tensor | None
    ) -> None:
        """The sums of all factored tensors as float64; with `constants` their means and the factors of their roots."""
        means_kernel[(len(self.factored),)](
            told, tensors, coefficients, constants, skip, self.count,
            COUNTED=self.makes_sums,
            STEPS=constants is not None,
            GIVEN_BOUND=not self.needs_bounds,
            SKIP=skip is not None,
            BLOCK=MEANS_BLOCK,
            **warps(8),
        )  # fmt: skip
