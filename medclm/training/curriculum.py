"""Which stage a sample is shown in: easy (box drawn), medium (not drawn) or hard (another image, answer only).

Every scheduler gives the probabilities of the stages for a domain ("<lesion>_<modality>") and is told the losses that
came of it. Their state is plain data, so that a run goes on where it stopped.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from medclm.schema import STAGES

Mix = tuple[float, float, float]  # probabilities of STAGES
PLATEAU_LENGTH = 5  # values of the global loss that are looked at


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


class Scheduler:
    """For every step probabilities() and then observe(); end_epoch() behind the last of an epoch."""

    name: str

    def probabilities(self, domain: str, epoch: int, progress: float) -> Mix:
        """progress: the part of all steps that is done, 0 to 1."""
        raise NotImplementedError

    def observe(self, domain: str, losses: Mapping[str, tuple[float, int]]) -> None:
        """stage -> (mean loss, number) of the samples of a step."""

    def end_epoch(self) -> None:
        pass

    def facts(self) -> dict[str, float]:
        """For the log."""
        return {}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

    def needs(self) -> set[str]:
        """Stages that may be asked for: the set must have rows of each."""
        return set(STAGES)


@dataclass(frozen=True)
class PaperConstants:
    """Of the scheduler in the authors' code (October 2025)."""

    ramp_from: int = 4  # epoch to which medium has probability 0; before it all is easy
    ramp_epochs: float = 10.0
    ema_new: float = 0.9  # weight of the new value
    loss_start: float = 1e-3  # of the averages of a domain
    global_start: float = 1e-4
    gap_eps: float = 1e-8
    gap_centre: float = 0.5
    gap_width: float = 0.1
    hard_from: int = 19  # epoch
    plateau_change: float = 0.01
    plateau_gap: float = 0.6
    hard_step: float = 0.05
    hard_most: float = 0.3
    hard_rise: float = 0.05  # of the global loss, at which the budget shrinks
    hard_decay: float = 0.9


class Paper(Scheduler):
    """The domain-aware scheduler as its authors coded it (epochs e from 0):

        b_e = 0 if e <= 4 else min(1, (e - 4) / 10)
        m <- 0.1 m + 0.9 loss, per epoch, of every domain in easy and in medium, and of all
        g_d = (m_easy[d] - m_med[d]) / (m_easy[d] + 1e-8)
        p_med(d, e) = b_e sigmoid((g_d - 0.5) / 0.1)
        e < 4: easy;  e < 19: medium with p_med, else easy;  e >= 19: hard with lambda, else medium or easy as before
        lambda <- min(lambda + 0.05, 0.3) if the last 5 global values change by at most 0.01 each and median g_d >= 0.6,
                  else max(0, 0.9 lambda) if the global value rose by 0.05

    **Medium and hard starve under it**: g_d is about 1 while a domain has no medium loss, which lets medium in; its
    first loss, similar to the easy one, brings g_d to 0 and p_med to sigmoid(-5) = 0.7 %. Then the median gap stays
    under 0.6 and lambda at 0. The log's stage counts show it. It is here to be compared with, not to be used.

    The global value is the mean loss of an epoch's samples.
    """

    name = "paper"

    def __init__(self, constants: PaperConstants = PaperConstants()) -> None:
        self.constants = constants
        self.easy: dict[str, float] = {}
        self.medium: dict[str, float] = {}
        self.overall = [constants.global_start]  # the last PLATEAU_LENGTH values
        self.hard_budget = 0.0
        self._sums: dict[str, list[float]] = {}  # of this epoch: "stage domain" -> [sum, count]

    def gap(self, domain: str) -> float:
        start = self.constants.loss_start
        easy, medium = self.easy.get(domain, start), self.medium.get(domain, start)
        return (easy - medium) / (easy + self.constants.gap_eps)

    def ramp(self, epoch: int) -> float:
        c = self.constants
        return 0.0 if epoch <= c.ramp_from else min(1.0, (epoch - c.ramp_from) / c.ramp_epochs)

    def medium_probability(self, domain: str, epoch: int) -> float:
        c = self.constants
        return self.ramp(epoch) * sigmoid((self.gap(domain) - c.gap_centre) / c.gap_width)

    def probabilities(self, domain: str, epoch: int, progress: float) -> Mix:
        c = self.constants
        hard = self.hard_budget if epoch >= c.hard_from else 0.0
        medium = 0.0 if epoch < c.ramp_from else self.medium_probability(domain, epoch)
        return (1 - hard) * (1 - medium), (1 - hard) * medium, hard

    def observe(self, domain: str, losses: Mapping[str, tuple[float, int]]) -> None:
        for stage, (mean, count) in losses.items():
            sums = self._sums.setdefault(f"{stage} {domain}", [0.0, 0.0])
            sums[0] += mean * count
            sums[1] += count

    def end_epoch(self) -> None:
        c = self.constants
        total, count = 0.0, 0.0
        for key, (loss, number) in self._sums.items():
            stage, domain = key.split(" ", 1)
            total, count = total + loss, count + number
            averages = {"easy": self.easy, "medium": self.medium}.get(stage)
            if averages is not None:
                averages[domain] = self._average(averages.get(domain, c.loss_start), loss / number)
        self._sums = {}
        if not count:
            return
        before = self.overall[-1]
        self.overall = [*self.overall, self._average(before, total / count)][-PLATEAU_LENGTH:]
        self._move_budget(self.overall[-1] - before)

    def _average(self, old: float, new: float) -> float:
        return (1 - self.constants.ema_new) * old + self.constants.ema_new * new

    def _move_budget(self, rise: float) -> None:
        c = self.constants
        changes = [abs(b - a) for a, b in zip(self.overall, self.overall[1:], strict=False)]
        flat = len(self.overall) == PLATEAU_LENGTH and max(changes) <= c.plateau_change
        domains = self.easy.keys() | self.medium.keys()
        if flat and domains and statistics.median(self.gap(d) for d in domains) >= c.plateau_gap:
            self.hard_budget = min(self.hard_budget + c.hard_step, c.hard_most)
        elif rise >= c.hard_rise:
            self.hard_budget = max(0.0, c.hard_decay * self.hard_budget)

    def facts(self) -> dict[str, float]:
        domains = sorted(self.easy.keys() | self.medium.keys())
        gap = {"median_gap": statistics.median(self.gap(d) for d in domains)} if domains else {}
        return {"lambda_H": self.hard_budget, "global_ema": self.overall[-1]} | gap

    def state_dict(self) -> dict:
        return {
            "easy": dict(self.easy), "medium": dict(self.medium), "overall": list(self.overall),
            "hard_budget": self.hard_budget, "sums": {k: list(v) for k, v in self._sums.items()},
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self.easy, self.medium, self.overall = dict(state["easy"]), dict(state["medium"]), list(state["overall"])
        self.hard_budget, self._sums = state["hard_budget"], {k: list(v) for k, v in state["sums"].items()}


@dataclass
class _Average:
    """An average of losses over samples, without the pull of its start: the weight of what was seen is kept."""

    value: float = 0.0
    weight: float = 0.0

    def add(self, mean: float, count: int, memory: float) -> None:
        keep = memory**count
        self.value, self.weight = keep * self.value + (1 - keep) * mean, keep * self.weight + (1 - keep)

    def get(self) -> float | None:
        return self.value / self.weight if self.weight else None


@dataclass
class Adaptive(Scheduler):
    """Ours, and the default: time and each domain's own losses move it from easy to hard; no stage starves.

        b   = min(1, progress / 0.5)                                  a ramp over the first half of the run
        g_d = (m_easy[d] - m_med[d]) / m_easy[d]                      as the paper's gap; 0 while one is unknown
        r_d = sigmoid((g_d + 0.25) / 0.1)                             ready: medium costs hardly more than easy
        c_d = b (1 + r_d) / 2                                         half from time, half from being ready
        w   = ((1 - c)^2, 2 c (1 - c), c^2)                           of easy, medium, hard
        p   = 0.1 + 0.7 w                                             every stage at least a tenth, from the start

    The paper's rule asks for a *large* gap (medium much cheaper than easy), which is what starves it; here the gap is
    read the other way round: where the drawn box no longer helps, the domain goes on. m are averages over about the
    last 64 samples of a domain and stage.
    """

    name = "adaptive"
    floor: float = 0.1
    ramp_until: float = 0.5  # of the run
    gap_centre: float = -0.25
    gap_width: float = 0.1
    memory: float = 63 / 64  # of a sample
    averages: dict[str, _Average] = field(default_factory=dict)  # "stage domain"

    def gap(self, domain: str) -> float:
        easy, medium = (self.averages.get(f"{stage} {domain}", _Average()).get() for stage in ("easy", "medium"))
        return 0.0 if not easy or medium is None else (easy - medium) / easy

    def competence(self, domain: str, progress: float) -> float:
        ready = sigmoid((self.gap(domain) - self.gap_centre) / self.gap_width)
        return min(1.0, progress / self.ramp_until) * (1 + ready) / 2

    def probabilities(self, domain: str, epoch: int, progress: float) -> Mix:
        c = self.competence(domain, progress)
        rest = 1 - len(STAGES) * self.floor
        easy, medium, hard = (self.floor + rest * w for w in ((1 - c) ** 2, 2 * c * (1 - c), c * c))
        return easy, medium, hard

    def observe(self, domain: str, losses: Mapping[str, tuple[float, int]]) -> None:
        for stage, (mean, count) in losses.items():
            self.averages.setdefault(f"{stage} {domain}", _Average()).add(mean, count, self.memory)

    def facts(self) -> dict[str, float]:
        domains = sorted({key.split(" ", 1)[1] for key in self.averages})
        return {"median_gap": statistics.median(self.gap(d) for d in domains)} if domains else {}

    def state_dict(self) -> dict:
        return {"averages": {key: asdict(average) for key, average in self.averages.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.averages = {key: _Average(**average) for key, average in state["averages"].items()}


class Staged(Scheduler):
    """Easy alone, then medium alone, then hard alone: a third of the steps each, or until other parts of the run."""

    name = "staged"

    def __init__(self, medium_from: float = 1 / 3, hard_from: float = 2 / 3) -> None:
        if not 0 <= medium_from <= hard_from <= 1:
            raise ValueError(
                f"scheduler: expected staged:A,B with 0 <= A <= B <= 1, the parts of the run at which medium and hard "
                f"begin; got {medium_from}, {hard_from}"
            )
        self.medium_from, self.hard_from = medium_from, hard_from

    def probabilities(self, domain: str, epoch: int, progress: float) -> Mix:
        if progress < self.medium_from:
            return 1.0, 0.0, 0.0
        return (0.0, 1.0, 0.0) if progress < self.hard_from else (0.0, 0.0, 1.0)


class Fixed(Scheduler):
    """The same probabilities all the time."""

    name = "mix"

    def __init__(self, *shares: float) -> None:
        if len(shares) != len(STAGES) or min(shares) < 0 or not sum(shares) > 0:
            raise ValueError(f"scheduler: expected mix:EASY,MEDIUM,HARD, shares of at least 0; got {shares}")
        easy, medium, hard = (share / sum(shares) for share in shares)
        self.mix = (easy, medium, hard)

    def probabilities(self, domain: str, epoch: int, progress: float) -> Mix:
        return self.mix

    def needs(self) -> set[str]:
        return {stage for stage, share in zip(STAGES, self.mix, strict=True) if share}


class NoCurriculum(Fixed):
    """Every stage equally likely, from the first step to the last."""

    name = "none"

    def __init__(self) -> None:
        super().__init__(1, 1, 1)


SCHEDULERS: dict[str, Callable[..., Scheduler]] = {
    each.name: each for each in (Adaptive, Paper, Staged, Fixed, NoCurriculum)
}


def scheduler(text: str) -> Scheduler:
    """``adaptive``, ``paper``, ``staged[:A,B]``, ``mix:E,M,H`` or ``none``. Raises ValueError."""
    name, _, given = text.partition(":")
    try:
        numbers = [float(word) for word in given.split(",")] if given else []
    except ValueError:
        raise ValueError(f"scheduler: expected numbers behind {name}:, got {given!r}") from None
    if name not in SCHEDULERS or (numbers and name not in ("staged", "mix")):
        raise ValueError(f"scheduler: expected adaptive, paper, staged[:A,B], mix:E,M,H or none, got {text!r}")
    if name == "staged" and len(numbers) not in (0, 2):
        raise ValueError(f"scheduler: expected staged:A,B, got {text!r}")
    return SCHEDULERS[name](*numbers)
