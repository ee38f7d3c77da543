"""What is minimized: the loss of the answer and of the reasoning, each over its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medclm.training.examples import ANSWER, REASONING


@dataclass(frozen=True)
class Weights:
    """Of the answer and the reasoning where there are both (MedCLM: 0.8 and 0.2)."""

    answer: float = 0.8
    reasoning: float = 0.2

    def __post_init__(self) -> None:
        if not (self.answer > 0 and self.reasoning >= 0):
            raise ValueError(f"weights: expected answer > 0 and reasoning >= 0, got {self.answer}, {self.reasoning}")


@dataclass(frozen=True)
class SpanLoss:
    """One value a sample [B]: ``loss`` to be averaged; ``answer`` and ``reasoning`` (NaN without) to be looked at."""

    loss: Tensor
    answer: Tensor
    reasoning: Tensor


def span_loss(
    losses: Tensor,  # [B, T]: place t is about token t + 1 (fastgrad's causal_lm_loss with reduction="none")
    spans: Tensor,  # [B, T], of the tokens themselves
    stages: Sequence[str],
    weights: Weights = Weights(),
) -> SpanLoss:
    """Cross-entropies averaged over the tokens of each span, then weighted (MedCLM, arXiv 2510.04477):

        easy, medium: 0.8 L_answer + 0.2 L_reasoning        hard: L_answer

    An easy or medium sample without reasoning counts as a hard one. Every sample weighs the same, however long it is.
    """
    about = torch.nn.functional.pad(spans, (0, 1))[:, 1:]
    answer, counted = _mean(losses, about == ANSWER)
    if not bool(counted.all()):
        raise ValueError("spans: expected tokens of an answer in every sample")
    reasoning, reasoned = _mean(losses, about == REASONING)
    hard = torch.tensor([stage == "hard" for stage in stages], device=losses.device)
    both = weights.answer * answer + weights.reasoning * reasoning
    nan = reasoning.new_full((), torch.nan)
    return SpanLoss(torch.where(reasoned & ~hard, both, answer), answer, torch.where(reasoned, reasoning, nan).detach())


def _mean(losses: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Over the chosen tokens of each sample [B] (0 where there are none), and whether there are some."""
    count = chosen.sum(1)
    return torch.where(chosen, losses, 0).sum(1) / count.clamp(min=1), count > 0
