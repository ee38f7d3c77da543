"""Shards of a list, cut at dim-0 rows: what they come to together has the bits of the whole, on every backend."""

from __future__ import annotations

import pytest
import torch
from adamw_states import KINDS, block_of, new_states
from contract_backends import BACKENDS, agree, needs_native
from contract_bits import assert_same_bits
from contract_cases import name, pairwise
from contract_data import DTYPES

import fastgrad

# Rows of 48 and 7 elements, rows longer than a tile, vectors: their shards begin anywhere in a tile.
SHAPES = ((130, 48), (700, 7), (9, 1500), (656,), (33,), (2, 33_000))
CUTS = ((5, 6, 44), (1, 293), (4,), (16, 112), (32,), (1,))
METHODS = ("none", "znorm", "autoscale", "clip", "centralize")
COMMON = {
    "gradients": DTYPES,
    "method": METHODS,
    "format": ("fp32", "fp8_e4m3", "int4"),
    "scale": ("none", "tensor"),
    "weight_rounding": ("stochastic", "nearest"),
    "where": ("in the whole", "of their own"),  # how shards lie in memory
}
ADAMW = {"states": KINDS, "beta1": (0.9, 0.0), "weights": (*DTYPES, torch.int8), **COMMON}
SGD = {"momentum": (0.9, 0.0), "weights": DTYPES, **COMMON}


def legal(case):
    case = case if case["format"] != "fp32" else {**case, "scale": "none"}
    return {**case, "format": "fp32"} if case["scale"] == "none" and case["format"] == "int4" else case


def values() -> list[torch.Tensor]:
    return [torch.randn(*shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(SHAPES)]


def gradients(step: int, dtype: torch.dtype) -> list[torch.Tensor]:
    grads = [
        0.01 * torch.randn(*shape, generator=torch.Generator().manual_seed(100 * step + i))
        for i, shape in enumerate(SHAPES)
    ]
    if step == 2:
        grads[0].view(-1)[::331], grads[3][5::70] = torch.nan, torch.inf
    return [g.to(dtype) for g in grads]


def options(case, table: torch.Tensor | None, step: int) -> dict:
    return {
        "method": case["method"],
        "max_norm": 0.5,
        "alpha": "ratio_max",
        "lagged": table,
        "format": case["format"],
        "scale": case["scale"],
        "seed": 9,
        "step": step,
        "slot": 2,
        "weight_rounding": case["weight_rounding"],
        "inv_scale": 0.37,
        "measure": False,
    }


def earlier_table(case) -> torch.Tensor:
    """The whole's table of the step before, with largest magnitudes beyond which some gradients saturate."""
    table = torch.ones(len(SHAPES) + 1, 16, dtype=torch.float64)
    table[:, :6] = fastgrad.gradient_moments([0.37 * g for g in gradients(0, case["gradients"])])
    table[:, 14] = 0.01
    return table


def runs() -> list[list[tuple[int, int]]]:
    """The dim-0 rows of every tensor's shards; a list of shards takes one of each, as far as there are some."""
    return [list(zip((0, *cuts), (*cuts, shape[0]), strict=True)) for shape, cuts in zip(SHAPES, CUTS, strict=True)]


def lists() -> list[list[tuple[int, int, int]]]:
    """Calls: tensor, first and last row of every shard."""
    most = max(len(shards) for shards in runs())
    return [[(i, *shards[c]) for i, shards in enumerate(runs()) if c < len(shards)] for c in range(most)]


def part(t: torch.Tensor, rows: int, first: int, last: int) -> torch.Tensor:
    """What a tensor holds of some dim-0 rows, codes and scales too: a view."""
    if t.dim() and t.shape[0] == rows:
        return t[first:last]
    return t[t.numel() * first // rows : t.numel() * last // rows]


def test_cuts_are_odd():
    """Shards begin inside tiles, at places that are no multiples of four, and at whole blocks where there are some."""
    cut = list(zip(values(), runs(), strict=True))
    starts = [first * (t.numel() // t.shape[0]) for t, shards in cut for first, _ in shards]
    assert any(start % 1024 and start % 4 for start in starts)
    vectors = [(block_of(t), shards) for t, shards in cut if t.dim() == 1 and block_of(t)]
    assert all(first % block == 0 for block, shards in vectors for first, _ in shards)


class Shards:
    """Those of one call: views of the whole's tensors, or copies that are brought back."""

    def __init__(self, kept: dict, call: list[tuple[int, int, int]], own: bool) -> None:
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.lists = {}
        for key, tensors in kept.items():
            if not isinstance(tensors, list):
                continue
            self.lists[key] = [self._take(key, kept, i, first, last, own) for i, first, last in call]

    def _take(self, key: str, kept: dict, i: int, first: int, last: int, own: bool) -> torch.Tensor:
        whole, rows = kept[key][i], kept["params"][i].shape[0]
        second = kept.get("exp_avg_sqs")
        if key == "exp_avg_sq_scales" and second[i].dtype == torch.float32:
            return whole.clone()  # means of columns: every shard has all of them
        view = part(whole, rows, first, last)
        if not own or not view.numel():
            return view
        self.pairs.append((view, view.clone()))
        return self.pairs[-1][1]

    def bring_back(self) -> None:
        for view, copy in self.pairs:
            view.copy_(copy)


def adamw_of_shards(
    case, kept: dict, arguments: dict, grads: list[torch.Tensor], bounds: list[float], age: int, factors: torch.Tensor
) -> list[torch.Tensor]:
    """One step, shards of a call at a time: first the sums of all, then their steps. Gives tables, and column means."""
    calls = lists()
    factored = [k.dtype == torch.float32 and s.numel() > 0
                for k, s in zip(kept["exp_avg_sqs"], kept["exp_avg_sq_scales"], strict=True)]  # fmt: skip
    taken, sums, results, column_sums = [], [], [], []
    for phase in ("sums", "update"):
        for c, call in enumerate(calls):
            if phase == "sums":
                taken.append(Shards(kept, call, case["where"] == "of their own"))
                sums.append(
                    [[torch.full((size if factored[i] else 0,), 7.0, dtype=torch.float64)
                      for size in (last - first, kept["exp_avg_sq_scales"][i].numel())] for i, first, last in call]
                )  # fmt: skip
            elif any(factored):
                for place, (i, _, _) in enumerate(call):
                    if factored[i]:
                        of_all = [own[1] for k, other in enumerate(calls)
                                  for own, (j, _, _) in zip(column_sums[k], other, strict=True) if j == i]  # fmt: skip
                        sums[c][place][1] = sum(of_all)
            lagged = arguments["lagged"]
            table = fastgrad.adamw_step_(
                grads=[part(grads[i], SHAPES[i][0], first, last) for i, first, last in call],
                ages=[age] * len(call),
                offsets=[first * (kept["params"][i].numel() // SHAPES[i][0]) for i, first, _ in call],
                whole_rows=[SHAPES[i][0] for i, _, _ in call],
                ids=[i for i, _, _ in call],
                bounds=[bounds[i] for i, _, _ in call],
                flags=[3 - i % 2 for i, _, _ in call],
                factors=factors[[i for i, _, _ in call]],
                phase=phase,
                row_sums=[own[0] for own in sums[c]],
                column_sums=[own[1] for own in sums[c]],
                packed_format=kept["packed_format"],
                **{**arguments, "lagged": lagged[[i for i, _, _ in call] + [len(SHAPES)]]},
                **taken[c].lists,
            )
            results.append(table)
        if phase == "sums":
            column_sums = [[[t.clone() for t in own] for own in some] for some in sums]
    for c, call in enumerate(calls):
        taken[c].bring_back()
        for place, (i, first, _) in enumerate(call):
            if factored[i] and first == 0:
                kept["exp_avg_sq_scales"][i].copy_(taken[c].lists["exp_avg_sq_scales"][place])
            elif factored[i]:
                mine = taken[c].lists["exp_avg_sq_scales"][place]
                assert_same_bits([mine], [kept["exp_avg_sq_scales"][i]], "means of columns on two shards")
    return results


def adamw_run(case) -> list[torch.Tensor]:
    """Steps of the whole list and of its shards, from one start: compared, and all tables and results."""
    hyper = torch.tensor([[0.01, case["beta1"], 0.99, 1e-8, 0.1, 0, 0, 0]], dtype=torch.float64)
    whole, cut = (new_states(values(), case["weights"], case["states"], case["beta1"], seed=4) for _ in range(2))
    state, count = torch.tensor([0.5, 0.7], dtype=torch.float64), len(SHAPES)
    table = earlier_table(case)
    results = []
    factors = torch.linspace(0.5, 2.0, count, dtype=torch.float64)
    for step in (1, 2):
        arguments = {"hyper": hyper, "state": state, **options(case, table, step)}
        grads, bounds = gradients(step, case["gradients"]), [0.02, 0.01, 0.005, 1.0, 0.02, 0.0]
        results += [fastgrad.adamw_step_(grads=grads, ages=[step + 3] * count, bounds=bounds, factors=factors,
                                         flags=[3 - i % 2 for i in range(count)], **arguments, **whole)]  # fmt: skip
        results += adamw_of_shards(case, cut, arguments, grads, bounds, step + 3, factors)
    numbers = [[t for value in kept.values() if isinstance(value, list) for t in value] for kept in (whole, cut)]
    assert_same_bits(numbers[1], numbers[0], "shards, and the whole")
    return results + numbers[0]


@needs_native
@pytest.mark.parametrize("case", pairwise(ADAMW, seed=5, adjust=legal), ids=name)
def test_adamw(case):
    agree(lambda: adamw_run(case), "adamw_step_ of shards", BACKENDS)


def sgd_run(case) -> list[torch.Tensor]:
    hyper = torch.tensor([[0.01, case["momentum"], 0.0, 0.1, 0, 0, 0, 0]], dtype=torch.float64)
    params = [v.to(case["weights"]) for v in values()]
    whole, cut = ({"params": [p.clone() for p in params], "momenta": [0.1 * p for p in params]} for _ in range(2))
    table = earlier_table(case)
    results = []
    for step in (1, 2):
        arguments = {"hyper": hyper, **options(case, table, step)}
        grads = gradients(step, case["gradients"])
        results += [fastgrad.sgd_step_(grads=grads, **arguments, **whole)]
        for call in lists():
            shards = Shards(cut, call, case["where"] == "of their own")
            ids = [i for i, _, _ in call]
            results += [fastgrad.sgd_step_(
                grads=[part(grads[i], SHAPES[i][0], first, last) for i, first, last in call],
                offsets=[first * (params[i].numel() // SHAPES[i][0]) for i, first, _ in call],
                ids=ids, **{**arguments, "lagged": table[[*ids, len(SHAPES)]]}, **shards.lists,
            )]  # fmt: skip
            shards.bring_back()
    assert_same_bits(cut["params"] + cut["momenta"], whole["params"] + whole["momenta"], "shards, and the whole")
    return results + whole["params"] + whole["momenta"]


@needs_native
@pytest.mark.parametrize("case", pairwise(SGD, seed=6, adjust=legal), ids=name)
def test_sgd(case):
    agree(lambda: sgd_run(case), "sgd_step_ of shards", BACKENDS)
