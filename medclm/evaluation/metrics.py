"""How an answer is compared with the truth: small pure functions, each with its formula and its source.

Scores are in [0, 1]. An empty answer scores 0.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF


@dataclass(frozen=True)
class Overlap:
    precision: float
    recall: float
    f1: float


NOTHING = Overlap(0.0, 0.0, 0.0)


def token_overlap(answer: list[str], truth: list[str]) -> Overlap:
    """Of two multisets of words: tp = sum of min(count in answer, count in truth), p = tp / |answer|, r = tp / |truth|,
    f1 = 2pr / (p + r).  (SQuAD's evaluation script, Rajpurkar et al. 2016)"""
    common = sum((Counter(answer) & Counter(truth)).values())
    return _overlap(common, len(answer), common, len(truth))


def candidate_overlap(answer: list[str], truth: list[str]) -> Overlap:
    """LLaVA-Med's: tp counts the words of the *answer* that the truth has, repeated ones too; fp its other words; fn
    the words of the truth that the answer lacks. p = tp / (tp + fp), r = tp / (tp + fn): ("lung lung lung", "left
    lung") has r = .75, where one of two words was found.  (LLaVA-Med v1.0, eval_metrics/evaluate_metrics.py)"""
    known = set(truth)
    tp = sum(word in known for word in answer)
    fn = sum(word not in set(answer) for word in truth)
    return _overlap(tp, len(answer), tp, tp + fn) if answer and truth else NOTHING


def set_overlap(answer: list[str], truth: list[str]) -> Overlap:
    """Of two sets of words; repetitions do not count.  (MedEvalKit, utils/utils.py: calculate_f1)"""
    common = len(set(answer) & set(truth))
    return _overlap(common, len(set(answer)), common, len(set(truth)))


def _overlap(of_answer: float, answer: int, of_truth: float, truth: int) -> Overlap:
    if not of_answer or not answer or not truth:
        return NOTHING
    precision, recall = of_answer / answer, of_truth / truth
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall))


def found_words(answer: list[str], truth: list[str]) -> float:
    """LLaVA-Med's "exact match": different words of the truth that the answer has / words of the answer. No equality:
    ("the left lower lobe of the lung", "left lung") has 0.4 once articles are gone.
    (LLaVA-Med v1.0, eval_metrics/evaluate_metrics.py: calculate_exactmatch)"""
    return len(set(truth) & set(answer)) / len(answer) if answer else 0.0


def nltk_bleu(answer: list[str], truth: list[str], weights: tuple[float, ...]) -> float:
    """NLTK's sentence BLEU without smoothing, as LLaVA-Med and MedEvalKit call it: a short answer has no n-grams of
    high order, and scores close to 0 whatever it says.  (Papineni et al. 2002; nltk.translate.bleu_score)"""
    import warnings

    from nltk.translate.bleu_score import sentence_bleu

    if not answer:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about orders without a match: that is the rule here
        return float(sentence_bleu([truth], answer, weights=weights))


def sentence_bleu(answer: str, truth: str, order: int = 4) -> float:
    """sacreBLEU's sentence BLEU in lower case: exponential smoothing, only the orders that the answer is long enough
    for.  (Post 2018; Chen & Cherry 2014, method 3)"""
    return _sentence_bleu(order).sentence_score(answer, [truth]).score / 100 if answer.strip() else 0.0


def corpus_bleu(answers: list[str], truths: list[str], order: int = 4) -> float:
    """sacreBLEU's corpus BLEU in lower case: n-grams are counted over all answers, and so is the length.
    (Papineni et al. 2002; Post 2018)"""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(lowercase=True, max_ngram_order=order, smooth_method="none")
    return bleu.corpus_score(answers, [truths]).score / 100


@cache
def _sentence_bleu(order: int) -> BLEU:
    from sacrebleu.metrics import BLEU

    return BLEU(lowercase=True, max_ngram_order=order, effective_order=True)


def chrf(answer: str, truth: str) -> float:
    """Similarity of two texts by their characters: chrF2, the F-score (recall twice the weight) of n-grams of 1 to 6
    characters in lower case. "cardiomegalia" is close to "cardiomegaly", where words say nothing.  (Popovic 2015)"""
    return _chrf().sentence_score(answer, [truth]).score / 100 if answer.strip() else 0.0


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics import CHRF

    return CHRF(lowercase=True)


ROUGES = ("rouge1", "rouge2", "rougeL")


def rouge(answer: str, truth: str) -> dict[str, float]:
    """F-scores of Google's ROUGE: words of the two texts (stemmed) in common, pairs of words, and the longest common
    subsequence.  (Lin 2004; rouge-score)"""
    found = _rouge().score(truth, answer)
    return {name: found[name].fmeasure for name in ROUGES}


@cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGES), use_stemmer=True)


ROUGE_WORDS = 500


def pltrdy_rouge(answer: str, truth: str) -> dict[str, float]:
    """F-scores of the package ``rouge``, which MedEvalKit calls: n-grams as sets, sentences split at full stops. Cut at
    500 words a side, as the package recurses over them."""
    from rouge import Rouge

    texts = [" ".join(text.lower().split()[:ROUGE_WORDS]) for text in (answer, truth)]
    if not all(text.strip(". ") for text in texts):
        return dict.fromkeys(("rouge1", "rouge2", "rougel"), 0.0)
    (found,) = Rouge().get_scores(*texts)
    return {"rouge1": found["rouge-1"]["f"], "rouge2": found["rouge-2"]["f"], "rougel": found["rouge-l"]["f"]}
