"""Metrics against values that stand in their sources' outputs, or that the formula gives by hand."""

import pytest

from medclm.evaluation import metrics


def test_llava_med_counts_repeated_words_of_the_answer():
    found = metrics.candidate_overlap("lung lung lung".split(), "left lung".split())
    assert (round(found.f1, 4), found.precision, found.recall) == (0.8571, 1.0, 0.75)
    true = metrics.token_overlap("lung lung lung".split(), "left lung".split())
    assert (true.precision, true.recall) == (1 / 3, 0.5)


def test_llava_med_overlap_of_a_long_answer():
    found = metrics.candidate_overlap("left lower lobe of lung".split(), "left lung".split())
    assert (round(found.f1, 4), found.precision, found.recall) == (0.5714, 0.4, 1.0)
    assert metrics.found_words("left lower lobe of lung".split(), "left lung".split()) == 0.4


@pytest.mark.parametrize("overlap", [metrics.token_overlap, metrics.candidate_overlap, metrics.set_overlap])
def test_nothing_said_or_nothing_true_is_nothing(overlap):
    assert overlap([], ["lung"]) == overlap(["lung"], []) == overlap(["a"], ["b"]) == metrics.NOTHING


def test_bleu_of_sacrebleu_and_nltk_by_hand():
    # "the cat sat" of "the cat sat down": all n-grams right, brevity exp(1 - 4/3).
    assert metrics.corpus_bleu(["the cat sat"], ["the cat sat down"], 2) == pytest.approx(0.716531, abs=1e-6)
    assert metrics.nltk_bleu("the cat sat".split(), "the cat sat down".split(), (1, 0, 0, 0)) == pytest.approx(
        0.716531, abs=1e-6
    )
    # Two of four words, no pair: NLTK has nothing of order 2.
    assert metrics.nltk_bleu("left x lung y".split(), "left a lung b".split(), (0.5, 0.5)) < 1e-6
    assert metrics.nltk_bleu([], ["lung"], (1, 0, 0, 0)) == metrics.sentence_bleu("", "lung") == 0.0
    assert metrics.sentence_bleu("Left lung", "left lung") == pytest.approx(1.0)


def test_rouge_by_hand():
    found = metrics.rouge("left lower lobe", "lower lobe of the left lung")
    assert found["rouge1"] == pytest.approx(2 * 3 / (3 + 6))
    assert found["rouge2"] == pytest.approx(2 * 1 / (2 + 5))
    assert found["rougeL"] == pytest.approx(2 * 2 / (3 + 6))


def test_rouge_of_medevalkit_takes_sets_and_never_fails():
    assert metrics.pltrdy_rouge("lung lung lung", "lung")["rouge1"] == pytest.approx(1.0, abs=1e-6)
    assert metrics.pltrdy_rouge("", "lung") == metrics.pltrdy_rouge("...", "lung")
    assert metrics.pltrdy_rouge("word " * 3000, "word " * 3000)["rougel"] > 0.99


def test_similarity_sees_what_words_do_not():
    assert metrics.chrf("cardiomegalia", "cardiomegaly") > 0.7 > 0.3 > metrics.chrf("pneumothorax", "cardiomegaly")
    assert metrics.chrf("", "lung") == 0.0
