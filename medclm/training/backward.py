"""fastgrad's differentiable ops between the blocks of the language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastgrad import quantize_grad
from fastgrad.shrinkage import column, projection
from medclm.problems import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RoundedBackward:
    """Rounds the gradient that leaves each block of the language model, stochastically, to a format.

    The forward is not changed by a bit. Hooks, not modules: the names of the weights stay those of the checkpoint.

        rounded = RoundedBackward(model, "fp8_e4m3", seed=0)
        rounded.begin(step)            # names the noise; before every forward
        ...backward...
        rounded.q_k()                  # mean of the blocks' measured projections since begin()
    """

    def __init__(self, model: PreTrainedModel, format: str, seed: int) -> None:
        self.format, self.seed = format, seed
        self._step = 0
        self._measured: list[float] = []
        self._handles = [
            block.register_forward_hook(self._hook(number)) for number, block in enumerate(language_blocks(model))
        ]

    def begin(self, step: int) -> None:
        self._step, self._measured = step, []

    def q_k(self) -> float | None:
        return sum(self._measured) / len(self._measured) if self._measured else None

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, number: int) -> Callable[[nn.Module, object, object], object]:
        def rounded(x: Tensor) -> Tensor:
            seed = (self.seed << 20) + number
            return quantize_grad(x, self.format, step=self._step, seed=seed, observe=self._observe)

        def hook(module: nn.Module, arguments: object, output: object) -> object:
            if not torch.is_grad_enabled():
                return None
            if isinstance(output, Tensor):
                return rounded(output) if output.requires_grad else None
            if isinstance(output, tuple) and isinstance(output[0], Tensor) and output[0].requires_grad:
                return (rounded(output[0]), *output[1:])
            return None

        return hook

    def _observe(self, table: Tensor) -> None:
        row = table[0]
        self._measured.append(float(projection(column(row, "sum_yy"), column(row, "sum_yq"))))


def language_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers. Raises DataError where there is no such list."""
    inner = model.get_decoder()
    for name in ("layers", "blocks", "h"):
        if isinstance(found := getattr(inner, name, None), nn.ModuleList):
            return found
    raise DataError(
        f"{type(model).__name__}: expected a decoder with a list of layers, for --backward-format; expected 'none' here"
    )
