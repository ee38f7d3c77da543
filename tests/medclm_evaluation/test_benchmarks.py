"""Readers on files in the layout that is published, and what they say of other files."""

import json
import pickle

import benchmark_files as made
import pytest

from medclm.evaluation import benchmarks
from medclm.evaluation.profiles import PROFILES
from medclm.problems import DataError, Problems


def read(name, path, problems=None, **options):
    return benchmarks.read(f"{name}:{path}", problems or Problems(), **options)


def texts(benchmark):
    return [(each.id, each.answer, each.answer_type) for each in benchmark.questions]


def test_vqa_rad_takes_its_test_phrases(tmp_path):
    found = read("vqa_rad", made.vqa_rad(tmp_path))
    assert texts(found) == [("1", "No", "CLOSED"), ("2", "2", "OPEN"), ("4", "Left", "CLOSED")]
    assert found.questions[1].groups == {"organ": ("head",), "question_type": ("PRES",)}
    assert found.trained_on == {"synpic1.jpg", "synpic3.jpg"}  # the first is in both parts
    assert found.load(0).size == (48, 40) and found.load(0).mode == "RGB"


def test_slake_takes_one_language(tmp_path):
    found = read("slake", made.slake(tmp_path))
    assert texts(found) == [("11", "No", "CLOSED"), ("13", "Left Lung", "OPEN"), ("14", "X-Ray", "CLOSED")]
    assert found.questions[1].groups["modality"] == ("XR",) and found.questions[1].groups["content_type"] == (
        "Position",
    )
    assert found.trained_on == {"xmlab2/source.jpg"}
    from medclm.evaluation.benchmarks import slake

    assert texts(slake.read(tmp_path, Problems(), language="zh")) == [("12", "CT", "OPEN")]


def test_path_vqa_reads_a_pickle_without_running_it(tmp_path):
    found = read("path_vqa", made.path_vqa(tmp_path))
    assert texts(found) == [("0", "yes", "CLOSED"), ("1", "basophils", "OPEN"), ("2", "yes, it does", "OPEN")]

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps([Bomb()]))
    with pytest.raises(DataError, match="expected lists, dicts, texts and numbers alone"):
        read("path_vqa", tmp_path / "bomb.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["vqa_rad", "path_vqa"])
def test_copies_in_parquet(tmp_path, name):
    found = read(name, made.hub_copy(tmp_path))
    assert texts(found) == [("0", "yes", "CLOSED"), ("1", "a lung", "OPEN")]
    assert found.questions[0].image in found.trained_on and found.questions[1].image not in found.trained_on
    assert found.load(1).tobytes() != found.load(0).tobytes()


def test_pmc_vqa_in_both_versions(tmp_path):
    problems = Problems()
    found = read("pmc_vqa", made.pmc_vqa(tmp_path), problems)
    assert [each.answer for each in found.questions] == ["Focal uptake pattern", "Diffuse uptake pattern"]
    assert [each.letter for each in found.questions] == ["B", "A"]
    assert problems.counts == {"malformed row": 1}  # "E"
    first = read("pmc_vqa", tmp_path / "test_clean.csv").questions[0]
    assert (first.letter, first.options[1]) == ("B", "B:Focal uptake pattern")
    for name in ("strict", "medevalkit"):
        assert PROFILES[name].score(first, "B", "pmc_vqa")["choice_accuracy"] == 1.0


def test_omnimedvqa_with_its_odd_entry(tmp_path):
    problems = Problems()
    found = read("omnimedvqa", made.omnimedvqa(tmp_path), problems)
    assert [each.letter for each in found.questions] == ["B", "B"]
    assert found.questions[1].options == ("A. Yes", "B. No")
    assert {each.groups["modality"] for each in found.questions} == {("CT",)}
    assert problems.counts == {"malformed row": 1}


def test_reports_of_a_table_and_of_r2gen(tmp_path):
    problems = Problems()
    found = read("reports", made.reports(tmp_path / "a"), problems)
    assert texts(found) == [("r1", "The heart is normal. No effusion.", "REPORT")]
    assert problems.counts == {"malformed row": 1} and found.trained_on == {"2.png"}
    assert texts(read("reports", made.r2gen(tmp_path / "b"))) == [("CXR1", "No acute disease.", "REPORT")]


def test_missing_image_is_named_or_counted(tmp_path):
    folder = made.slake(tmp_path)
    (folder / "imgs" / "xmlab2" / "source.jpg").unlink()
    with pytest.raises(DataError, match=r"image missing: question 13: xmlab2/source.jpg below .*imgs"):
        read("slake", folder)
    problems = Problems()
    assert len(read("slake", folder, problems, missing="skip").questions) == 1
    assert problems.counts == {"image missing": 2}


WRONG = {
    "slake": "expected the fields img_name, question, answer, q_lang, answer_type, qid .* got .*qid_linked_id",
    "reports": "expected image and report",
    "omnimedvqa": "expected the fields question_id, question, gt_answer, image_path, option_A",
    "path_vqa": r"expected the fields image, question, answer .* \(without image\)",
    "pmc_vqa": "expected the columns Figure_path, Question",
}


@pytest.mark.parametrize("name", WRONG)
def test_file_of_another_benchmark_is_named(tmp_path, name):
    file = made.vqa_rad(tmp_path) / "VQA_RAD Dataset Public.json"
    with pytest.raises(DataError, match=f"{name}: {WRONG[name]}"):
        read(name, file)


def test_vqa_rad_says_what_it_expected(tmp_path):
    made.slake(tmp_path)
    with pytest.raises(DataError, match=r"vqa_rad: expected VQA_RAD Dataset Public.json or .*got none of them"):
        read("vqa_rad", tmp_path)
    with pytest.raises(DataError, match=r"\(without phrase_type, image_name\)"):
        read("vqa_rad", tmp_path / "test.json")


def test_files_that_hold_nothing_to_ask(tmp_path):
    (tmp_path / "imgs").mkdir()
    for content, words in (
        ("[]", "expected entries in"),
        ("{}", "got dict"),
        ("[1]", "got int"),
        ("[", "expected a JSON list"),
    ):
        (tmp_path / "test.json").write_text(content)
        with pytest.raises(DataError, match=words):
            read("slake", tmp_path)
    entry = {"img_name": "x", "question": "?", "answer": "y", "q_lang": "zh", "answer_type": "OPEN", "qid": 1}
    (tmp_path / "test.json").write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=r"expected questions with q_lang 'en' in .*, got zh"):
        read("slake", tmp_path)


def test_what_is_no_benchmark_at_all(tmp_path):
    with pytest.raises(DataError, match="expected the folder of a converted set, or one of vqa_rad, slake"):
        benchmarks.read("chexbench:x", Problems())
    with pytest.raises(DataError, match="expected a file or a folder that exists"):
        read("slake", tmp_path / "nowhere")
    with pytest.raises(DataError, match="missing: expected one of error, skip, got 'ignore'"):
        read("slake", tmp_path, missing="ignore")


def test_fingerprint_follows_answers_and_images(tmp_path):
    folder = made.slake(tmp_path)
    before = read("slake", folder).fingerprint()
    assert read("slake", folder).fingerprint() == before
    made.picture(folder / "imgs" / "xmlab1" / "source.jpg", 99, size=(60, 60))
    after = read("slake", folder).fingerprint()
    assert after != before
    entries = json.loads((folder / "test.json").read_text())
    entries[0]["answer"] = "Yes"
    (folder / "test.json").write_text(json.dumps(entries))
    assert read("slake", folder).fingerprint() not in (before, after)


def test_a_share_of_the_questions_is_always_the_same(converted):
    whole = benchmarks.read(str(converted), Problems())
    some = whole.sampled(7)
    assert [each.id for each in some.questions] == [each.id for each in whole.sampled(7).questions]
    assert len(some.questions) == 7 and whole.sampled(10**6) is whole
    places = [next(n for n, each in enumerate(whole.questions) if each.id == q.id) for q in some.questions]
    assert places == sorted(places) and places != list(range(7))
    for number, place in enumerate(places):
        assert some.row(number)["question"] == whole.row(place)["question"]
        assert some.load(number).tobytes() == whole.load(place).tobytes()
    assert some.fingerprint() != whole.fingerprint() and "7 of" in some.title
