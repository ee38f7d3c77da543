"""How a question is put, by the name of the prompt."""

from __future__ import annotations

import pytest

from medclm.evaluation.prompts import LONG, SHORT, asked
from medclm.evaluation.questions import REPORT, Question
from medclm.problems import DataError


@pytest.mark.parametrize("stage", ("easy", "medium", "hard", None))
def test_brief_asks_for_the_answer_alone_in_every_stage(stage):
    question = Question("1", "Where is it?", "left", "OPEN", stage=stage)
    brief, own = asked(question, "set", "brief"), asked(question, "set", "own")
    assert (brief.text, brief.stage, brief.tokens) == (own.text, "hard", SHORT)
    assert own.stage == (stage or "hard") and own.tokens == (LONG if stage in ("easy", "medium") else SHORT)


def test_a_report_is_asked_for_as_it_is():
    question = Question("1", "Write a report.", "Clear.", REPORT)
    assert asked(question, "reports", "brief") == asked(question, "reports", "own")
    assert asked(question, "reports", "own").stage is None


def test_an_unknown_prompt_is_named():
    with pytest.raises(DataError, match="expected one of own, brief, plain"):
        asked(Question("1", "?", "left", "OPEN"), "set", "loud")
