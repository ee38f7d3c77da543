"""Leakage: the same picture in any dress, the same patient, and nothing else."""

import io
from dataclasses import replace

import benchmark_files as made
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from small_cases import SALT

from medclm import sets
from medclm.evaluation import benchmarks, leakage
from medclm.evaluation.leakage import Seen, check, distance, exact_hash, perceptual_hash, seen_in, seen_in_set
from medclm.privacy import hashed
from medclm.problems import Problems


def pictures(folder, count=12, size=(160, 140)):
    return [Image.open(made.picture(folder / f"{n}.png", n, size)) for n in range(count)]


def jpeg(image, quality):
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return Image.open(file)


DRESSES = {
    "jpeg": lambda image: jpeg(image, 80),
    "smaller": lambda image: image.resize((80, 70), Image.Resampling.BILINEAR),
    "larger": lambda image: image.resize((320, 280), Image.Resampling.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image.convert("RGB")).enhance(1.1),
    "more contrast": lambda image: ImageEnhance.Contrast(image.convert("RGB")).enhance(1.15),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_picture_in_another_dress_is_near_and_not_exact(dress, tmp_path):
    known = pictures(tmp_path)
    seen = seen_in(known[:6])
    for number, image in enumerate(known):
        changed = DRESSES[dress](image)
        assert seen.near(perceptual_hash(changed)) == (number < 6)
        assert exact_hash(changed) not in seen.exact


def test_pixels_are_compared_and_not_files(tmp_path):
    (image,) = pictures(tmp_path, 1)
    again = tmp_path / "again.bmp"
    image.convert("RGB").save(again)
    assert exact_hash(Image.open(again)) == exact_hash(image)
    assert exact_hash(image.crop((0, 0, 159, 140))) != exact_hash(image)


def test_pictures_that_show_nothing_are_not_near_one_another():
    dark = Image.fromarray(np.random.default_rng(0).integers(0, 2, (90, 90), dtype=np.uint8))
    assert not seen_in([dark]).near(perceptual_hash(Image.new("L", (60, 60))))


def test_distance_counts_bits():
    a = np.array([[0, 3, 0, 1 << 63]], np.uint64)
    assert distance(a, np.zeros(4, np.uint64)).tolist() == [3]


def slake(tmp_path):
    return benchmarks.read(f"slake:{made.slake(tmp_path)}", Problems())


def test_counts_by_reason(tmp_path):
    found = slake(tmp_path)
    first, second = found.load(0), found.load(1)
    seen = seen_in([first, jpeg(second.resize((300, 250), Image.Resampling.BICUBIC), 95)])
    leaked = check(found, seen)
    assert leaked.questions == {0: ("exact",), 1: ("near", "own"), 2: ("near", "own")}
    said = leaked.to_dict(found)
    assert said["checked"] == ["exact", "near", "own"] and said["leaked_questions"] == 3
    assert said["near"] == {"questions": 2, "images": 1, "ids": ["13", "14"]}
    assert check(replace(found, trained_on=frozenset()), None).checked == ()


def test_patients_of_slake_are_found_with_the_salt_of_the_set(tmp_path):
    found = slake(tmp_path)
    seen = Seen(
        frozenset(),
        np.zeros((0, leakage.WORDS), np.uint64),
        frozenset([hashed("patient", "slake", "xmlab1", salt=SALT)]),
    )
    assert check(replace(found, trained_on=frozenset()), seen, salt=SALT).questions == {0: ("patient",)}
    assert "patient" not in check(found, seen).checked  # without the salt nobody can tell


def test_split_of_a_converted_set_is_clean_and_its_train_split_is_not(converted):
    seen = seen_in_set(converted)
    assert seen.patients == {row["patient"] for row in sets.rows(converted, split="train", columns=["patient"])}
    clean = check(benchmarks.read(str(converted), Problems()), seen)
    assert not any("patient" in reasons or "exact" in reasons for reasons in clean.questions.values())
    train = benchmarks.read(str(converted), Problems(), split="train")
    leaked = check(train, seen)
    assert set(leaked.questions) == set(range(len(train.questions)))
    assert all({"exact", "patient", "own"} <= set(reasons) for reasons in leaked.questions.values())
