"""Metric profiles: one reply, scored as a named evaluation scores it, so that a number can be compared with a paper's.

A profile turns (question, answer) into named scores in [0, 1]; the score of a benchmark is the mean over the questions
that have it. Which scores a question has goes by whether it is closed, as that profile decides it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from medclm.evaluation import metrics, normalizing
from medclm.evaluation.questions import LETTERS, REPORT, Question
from medclm.evaluation.replies import chosen
from medclm.problems import DataError

Scores = dict[str, float]


@dataclass(frozen=True)
class Profile:
    """score: (question, answer, kind of benchmark) -> scores; {} where the profile has no rule for such a question."""

    name: str
    title: str
    source: str
    score: Callable[[Question, str, str], Scores]


# --- strict: ours


def _strict(question: Question, answer: str, kind: str) -> Scores:
    if question.choices:
        found = chosen(answer, question.choices, normalizing.strict)
        right = found is not None and question.choices[found] == question.answer
        return {"accuracy": float(right), "choice_accuracy": float(right), "choice_parsed": float(found is not None)}
    if question.answer_type == REPORT:
        return _text_scores(answer, question.answer, "report")
    words, truth = normalizing.strict(answer).split(), normalizing.strict(question.answer).split()
    if question.answer_type == "CLOSED":
        # After yes or no a sentence may follow; of any other closed answer every word counts.
        right = words[:1] == truth if truth in (["yes"], ["no"]) else words == truth and bool(truth)
        return {"accuracy": float(right), "closed_accuracy": float(right)}
    same = words == truth and bool(truth)
    overlap = metrics.token_overlap(words, truth)
    return {
        "accuracy": float(same),
        "open_exact": float(same),
        "open_f1": overlap.f1,
        "open_precision": overlap.precision,
        "open_recall": overlap.recall,
        **_text_scores(" ".join(words), " ".join(truth), "open"),
    }


def _text_scores(answer: str, truth: str, prefix: str) -> Scores:
    rouges = metrics.rouge(answer, truth)
    if prefix == "open":  # many answers are one word, which has no pairs
        del rouges["rouge2"]
    return {
        f"{prefix}_bleu": metrics.sentence_bleu(answer, truth),
        f"{prefix}_similarity": metrics.chrf(answer, truth),
        **{f"{prefix}_{name}": value for name, value in rouges.items()},
    }


# --- LLaVA-Med


def _llava_med(question: Question, answer: str, kind: str) -> Scores:
    """Lower case, normalised before and within each metric."""
    if question.choices or question.answer_type == REPORT:
        return {}
    said, truth = (normalizing.llava_med(text.lower()) for text in (answer, question.answer))
    if question.answer_type == "CLOSED":
        return {"closed_accuracy": float(("yes" in said or "no" in said) and truth in said)}
    words, true_words = (normalizing.llava_med(text).split() for text in (said, truth))
    overlap = metrics.candidate_overlap(words, true_words)
    scores = {
        "open_recall": overlap.recall,
        "open_precision": overlap.precision,
        "open_f1": overlap.f1,
        "open_exact_match": metrics.found_words(words, true_words),
        "open_bleu": metrics.nltk_bleu(said.split(), truth.split(), (0.25, 0.25, 0.25, 0.25)),
    }
    for order in (1, 2, 3):  # of one order alone, whatever their names say
        weights = tuple(float(place == order) for place in (1, 2, 3, 4))
        scores[f"open_bleu_{order}"] = metrics.nltk_bleu(said.split(), truth.split(), weights)
    return scores


# --- lmms-eval


def _lmms_eval(question: Question, answer: str, kind: str) -> Scores:
    if question.choices or question.answer_type == REPORT:
        return {}
    right = float(normalizing.lmms_eval(answer) == normalizing.lmms_eval(question.answer))
    return {"accuracy": right, f"{question.answer_type.lower()}_accuracy": right}


# --- MedEvalKit

_ANSWER_MARKS = (
    "**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:", "final answer",
    "final answer is",
)  # fmt: skip
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_YES_NO_BENCHMARKS = ("vqa_rad", "path_vqa")  # closed: the answer is yes or no, whatever the file says


def _medevalkit(question: Question, answer: str, kind: str) -> Scores:
    if question.answer_type == REPORT:
        return {}
    if question.choices:
        right = float(_multiple_choice(question, _tagged(answer)))
        return {"accuracy": right, "choice_accuracy": right}
    answer = _boxed(answer) or _tagged(answer)
    truth = question.answer
    if kind in _YES_NO_BENCHMARKS:
        answer, truth = answer.lower().strip(), truth.lower().strip()
        closed = truth in ("yes", "no")
    else:
        closed = question.answer_type == "CLOSED"
    if closed:
        right = float(_judgement(truth, answer) if truth in ("yes", "no") else _equal(truth, answer))
        return {"accuracy": right, "closed_accuracy": right}
    truth, answer = truth.lower(), _after_marks(answer)
    exact = float(truth == answer)
    overlap = metrics.set_overlap(answer.split(), truth.split())
    said, wanted = (text.lower().replace(".", " .").split(" ") for text in (answer, truth))
    scores = {"accuracy": exact, "open_accuracy": exact, "open_em": exact}
    for order in (1, 2, 3, 4):
        scores[f"open_bleu{order}"] = metrics.nltk_bleu(said, wanted, (1 / order,) * order) if answer else 0.0
    scores |= {f"open_{name}": value for name, value in metrics.pltrdy_rouge(answer, truth).items()}
    # The three are returned as (f1, precision, recall) and taken as (precision, recall, f1): what it prints under a
    # name is another.
    return scores | {"open_precision": overlap.f1, "open_recall": overlap.precision, "open_f1": overlap.recall}


def _boxed(text: str) -> str:
    r"""What is in the last \boxed{..}; "" where there is none or it does not end."""
    start = text.rfind("\\boxed{")
    depth = 0
    for place in range(start + 6, len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 7 : place]
    return ""


def _tagged(text: str) -> str:
    return " ".join(_TAGGED.findall(text)).strip() or text


def _after_marks(text: str) -> str:
    text = text.lower()
    text = (_boxed(text) or "none") if "boxed" in text else _tagged(text)
    for mark in _ANSWER_MARKS:
        text = text.split(mark)[-1]
    return text


def _equal(truth: str, answer: str) -> bool:
    return _after_marks(answer).replace("\n", "").replace(".", "") == truth.lower()


def _judgement(truth: str, answer: str) -> bool:
    """Exactly one of yes and no stands in the reply, as letters, and it is the answer: "not" and "normal" say no."""
    answer = _after_marks(answer).replace("\n", "").replace(".", "")
    return (("yes" in answer) != ("no" in answer)) and truth in answer


def _multiple_choice(question: Question, answer: str) -> bool:
    """By letter, by the whole text of an option, else by the option that is closest as difflib counts."""
    options = [option.lower() for option in question.options]
    letters = [letter.lower() for letter in LETTERS[: len(options)]]
    answer = answer.lower()
    first, last = answer.split("\n\n")[0], answer.split("\n\n")[-1].split(".")[0]
    answer = first if first in letters else last if last in letters else answer
    answer = _after_marks(answer).strip().replace("\n", "")
    said, truth = answer.split(".")[0].split(":")[-1], question.letter.lower()
    if said == truth:
        return True
    if said in letters or said in options:
        return said in options and said == options[letters.index(truth)]
    ratios = [difflib.SequenceMatcher(None, option, answer).ratio() for option in options]
    return ratios.index(max(ratios)) == letters.index(truth)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("strict", "Equality of normalised words; true F1, recall, BLEU, ROUGE", "this project", _strict),
        Profile(
            "llava_med",
            "LLaVA-Med v1.0: substring for closed, word recall for open questions",
            "microsoft/LLaVA-Med, llava/eval/run_eval.py at b9a98a7",
            _llava_med,
        ),
        Profile(
            "lmms_eval",
            "lmms-eval: equality for closed and open questions",
            "EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/slake/utils.py",
            _lmms_eval,
        ),
        Profile(
            "medevalkit",
            "MedEvalKit (Lingshu): yes/no by letters, options by the closest text",
            "alibaba-damo-academy/MedEvalKit, utils/utils.py",
            _medevalkit,
        ),
    )
}


def profile(name: str) -> Profile:
    """By name; raises DataError for one that is not known."""
    if name not in PROFILES:
        raise DataError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]
