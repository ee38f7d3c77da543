"""The schedulers, phase by phase, with their constants; that the paper's starves and ours does not."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from medclm.schema import STAGES
from medclm.training.curriculum import Adaptive, Paper, scheduler, sigmoid
from medclm.training.records import Record, draw_stages, epoch_batches

D = "nodule_CT"


def epoch(made: Paper, **losses: float) -> None:
    """One epoch in which every stage that is named had this mean loss."""
    made.observe(D, {stage: (loss, 10) for stage, loss in losses.items()})
    made.end_epoch()


def test_paper_first_phase_is_easy_alone():
    made = Paper()
    for e in range(4):
        assert made.probabilities(D, e, 0.0) == (1.0, 0.0, 0.0)
        epoch(made, easy=2.0)


def test_paper_ramp():
    made = Paper()
    assert [made.ramp(e) for e in (0, 4, 5, 9, 14, 19, 90)] == [0.0, 0.0, 0.1, 0.5, 1.0, 1.0, 1.0]


def test_paper_averages_give_the_new_value_nine_tenths():
    made = Paper()
    epoch(made, easy=2.0)
    assert made.easy[D] == pytest.approx(0.1 * 1e-3 + 0.9 * 2.0)
    assert made.overall[-1] == pytest.approx(0.1 * 1e-4 + 0.9 * 2.0)
    epoch(made, easy=1.0)
    assert made.easy[D] == pytest.approx(0.1 * (0.1 * 1e-3 + 0.9 * 2.0) + 0.9 * 1.0)


def test_paper_global_value_is_the_mean_over_samples():
    made = Paper()
    made.observe(D, {"easy": (1.0, 30), "hard": (3.0, 10)})
    made.end_epoch()
    assert made.overall[-1] == pytest.approx(0.1 * 1e-4 + 0.9 * 1.5)


def test_paper_second_phase_follows_the_gap():
    made = Paper()
    made.easy[D], made.medium[D] = 2.0, 0.5
    gap = 1.5 / (2.0 + 1e-8)
    assert made.gap(D) == pytest.approx(gap)
    expected = 0.5 * sigmoid((gap - 0.5) / 0.1)
    assert made.probabilities(D, 9, 0.0) == pytest.approx((1 - expected, expected, 0.0))
    assert made.probabilities(D, 18, 0.0)[2] == 0.0


def test_paper_third_phase_gives_hard_its_budget():
    made = Paper()
    made.easy[D], made.medium[D], made.hard_budget = 2.0, 0.5, 0.2
    medium = sigmoid((1.5 / (2.0 + 1e-8) - 0.5) / 0.1)
    assert made.probabilities(D, 18, 0.0)[2] == 0.0
    assert made.probabilities(D, 19, 0.0) == pytest.approx((0.8 * (1 - medium), 0.8 * medium, 0.2))


def test_paper_hard_budget_grows_on_a_plateau_with_a_gap_to_its_limit():
    made = Paper()
    budgets = []
    for _ in range(14):
        epoch(made, easy=1.0, medium=0.2)  # the gap is 0.8
        budgets.append(made.hard_budget)
    # Five values that differ by at most 0.01 each have to be there first.
    first = next(i for i, budget in enumerate(budgets) if budget)
    assert budgets[first : first + 7] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.3])
    assert first >= 4


def test_paper_hard_budget_stays_without_the_gap_or_without_the_plateau():
    flat = Paper()
    for _ in range(12):
        epoch(flat, easy=1.0, medium=0.5)  # a gap of 0.5 is under 0.6
    assert flat.hard_budget == 0.0
    falling = Paper()
    for e in range(12):
        epoch(falling, easy=4.0 - 0.2 * e, medium=0.1)
    assert falling.hard_budget == 0.0


def test_paper_hard_budget_shrinks_when_the_global_loss_rises():
    made = Paper()
    for _ in range(8):
        epoch(made, easy=1.0, medium=0.2)
    before = made.hard_budget
    assert before > 0
    epoch(made, easy=1.2, medium=0.4)
    assert made.hard_budget == pytest.approx(0.9 * before)


def run(text: str, epochs: int, domains: int = 4, records: int = 50) -> tuple[list[Counter], list[dict]]:
    """A run in which medium costs a tenth more than easy, and all losses fall: stage counts of every epoch."""
    made = scheduler(text)
    these = [Record(f"d{d}", dict.fromkeys(STAGES, 0)) for d in range(domains) for _ in range(records)]
    counts, facts, step, steps = [], [], 0, epochs * domains * math.ceil(records / 4)
    for e in range(epochs):
        counts.append(Counter())
        for batch in epoch_batches(these, 4, 0, e):
            domain, progress = these[batch[0]].domain, step / steps
            drawn = list(draw_stages([these[i] for i in batch], made.probabilities(domain, e, progress), 0, step))
            base = 3.0 * math.exp(-2 * progress) + 0.2
            loss = {"easy": base, "medium": 1.1 * base, "hard": 1.3 * base}
            made.observe(domain, {stage: (loss[stage], n) for stage, n in Counter(drawn).items()})
            counts[-1].update(drawn)
            step += 1
        made.end_epoch()
        facts.append(made.facts())
    return counts, facts


def test_paper_starves_medium_and_hard():
    """Medium is let in while its loss is unknown, then shut out; hard never comes."""
    counts, facts = run("paper", 40)
    assert all(c["medium"] == c["hard"] == 0 for c in counts[:5])
    first = next(e for e, c in enumerate(counts) if c["medium"])
    later = Counter()
    for c in counts[first + 1 :]:
        later.update(c)
    assert later["medium"] / sum(later.values()) < 0.01  # sigmoid(-5) is 0.7 %
    assert sum(c["hard"] for c in counts) == 0
    assert all(fact["lambda_H"] == 0.0 for fact in facts)


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_adaptive_starves_no_stage(epochs):
    counts, _ = run("adaptive", epochs, records=100)
    total = sum(counts, Counter())
    for stage in STAGES:
        # A tenth is the least it may be asked for; four standard deviations below that are allowed to chance.
        n = sum(total.values())
        assert total[stage] > 0.1 * n - 4 * math.sqrt(0.09 * n), total
    assert total["hard"] > total["easy"]


def test_adaptive_moves_from_easy_to_hard_by_time_and_by_readiness():
    made = Adaptive()
    assert made.probabilities(D, 0, 0.0) == pytest.approx((0.8, 0.1, 0.1))
    made.observe(D, {"easy": (1.0, 500), "medium": (1.0, 500)})
    ready = made.probabilities(D, 0, 1.0)
    behind = Adaptive()
    behind.observe(D, {"easy": (1.0, 500), "medium": (2.0, 500)})
    waiting = behind.probabilities(D, 0, 1.0)
    assert ready[2] > 0.65 and waiting == pytest.approx((0.275, 0.45, 0.275), abs=1e-3)
    assert made.probabilities("another_CT", 0, 0.25)[2] < ready[2]  # a domain has its own state
    for progress in np.linspace(0, 1, 21):
        mix = behind.probabilities(D, 0, progress)
        assert sum(mix) == pytest.approx(1.0) and min(mix) >= 0.1


def test_staged_mix_and_none():
    made = scheduler("staged")
    assert [made.probabilities(D, 0, p).index(1.0) for p in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert scheduler("mix:1,1,2").probabilities(D, 5, 0.9) == (0.25, 0.25, 0.5)
    assert scheduler("mix:1,0,0").needs() == {"easy"}
    assert scheduler("none").probabilities(D, 0, 0.0) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize(
    "text", ["linear", "mix:1,2", "mix:a,b,c", "mix:-1,1,1", "staged:0.9,0.1", "paper:3", "staged:1"]
)
def test_what_is_no_scheduler_is_refused(text):
    with pytest.raises(ValueError, match=r"scheduler: expected"):
        scheduler(text)


@pytest.mark.parametrize("text", ["paper", "adaptive"])
def test_state_goes_through_json_and_goes_on(text):
    first, second = scheduler(text), scheduler(text)
    for e in range(9):
        first.observe(D, {"easy": (1.0 + e, 3), "medium": (0.3, 1)})
        if e != 8:
            first.end_epoch()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for made in (first, second):
        made.observe("mass_XR", {"easy": (0.7, 2)})
        made.end_epoch()
    assert first.state_dict() == second.state_dict() and first.facts() == second.facts()
    assert first.probabilities(D, 20, 0.4) == second.probabilities(D, 20, 0.4)


def test_an_epoch_is_every_record_once_in_batches_of_one_domain():
    records = [Record(f"d{i % 3}", {"easy": i}) for i in range(25)]
    batches = epoch_batches(records, 4, 7, 0)
    assert all(len(batch) == 4 and len({records[i].domain for i in batch}) == 1 for batch in batches)
    assert Counter(i for batch in batches for i in batch).keys() == set(range(25))
    assert len(batches) == 3 + 2 + 2
    assert batches == epoch_batches(records, 4, 7, 0) != epoch_batches(records, 4, 7, 1)


def test_a_record_is_drawn_only_in_stages_that_it_has():
    lacking = [Record(D, {"easy": 0, "medium": 1})] * 400
    drawn = Counter(draw_stages(lacking, (0.2, 0.2, 0.6), 0, 3))
    assert set(drawn) == {"easy", "medium"} and abs(drawn["easy"] - 200) < 60
    assert set(draw_stages(lacking, (0.0, 0.0, 1.0), 0, 3)) == {"medium"}
    assert set(draw_stages([Record(D, {"hard": 2})], (1.0, 0.0, 0.0), 0, 3)) == {"hard"}
    full = [Record(D, dict.fromkeys(STAGES, 0))] * 4000
    shares = Counter(draw_stages(full, (0.5, 0.3, 0.2), 0, 3))
    assert [shares[stage] / 4000 for stage in STAGES] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
