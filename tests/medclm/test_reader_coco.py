"""COCO: joins by id, both kinds of run lengths, polygons, and what real files get wrong."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as codec

from medclm import readers
from medclm.cases import Case
from medclm.problems import DataError, Problems, Reason
from medclm.readers.coco_masks import region_of

# numpy 2 about pycocotools' own array type.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WIDTH, HEIGHT = 30, 20
BLOB = np.zeros((HEIGHT, WIDTH), bool)  # no symmetry: a transposed or mirrored mask differs
BLOB[3:9, 5:20] = True
BLOB[9:15, 5:8] = True
IMAGE = {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
CATEGORIES = [{"id": 3, "name": "Lung_Nodule"}, {"id": 90, "name": "mass"}]


def written(path: Path, annotations: list[dict], images: list[dict] | None = None, **more: object) -> Path:
    data = {"images": images or [IMAGE], "annotations": annotations, "categories": CATEGORIES} | more
    path.write_text(json.dumps(data))
    return path


def read(path: Path, problems: Problems | None = None, **options: object) -> list[Case]:
    return list(readers.read("coco", path, None, Problems(strict=True) if problems is None else problems, **options))


def annotation(**fields: object) -> dict:
    return {"id": 1, "image_id": 7, "category_id": 90, "bbox": [5, 3, 15, 12]} | fields


def column_runs(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths, down the columns, beginning with unset pixels."""
    flat = mask.T.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1), flat.size]
    runs = [int(b - a) for a, b in itertools.pairwise(edges)]
    return [0, *runs] if flat[0] else runs


def compressed(mask: np.ndarray) -> str:
    return codec.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_boxes_are_a_corner_and_a_size_and_ids_join_whatever_their_values(tmp_path: Path) -> None:
    images = [{"id": 900, "file_name": "b.png"}, IMAGE]
    found = [annotation(), annotation(id=2, category_id=3, bbox=[1.5, 2, 3, 4])]
    second, first = read(written(tmp_path / "a.json", found, images), modality="XR", source="mine", split="val")
    assert (second.id, second.lesions, second.width) == ("900", (), None)
    assert [(each.label, each.box) for each in first.lesions] == [
        ("mass", (5, 3, 20, 15)),
        ("lung nodule", (1.5, 2, 4.5, 6)),
    ]
    assert (first.width, first.height, first.modality, first.source) == (WIDTH, HEIGHT, "XR", "mine")
    assert (first.split, first.patient, first.absent) == ("val", "7", ())


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [HEIGHT, WIDTH], "counts": column_runs(BLOB)},
        {"size": [HEIGHT, WIDTH], "counts": compressed(BLOB)},
        [[5, 3, 20, 3, 20, 9, 5, 9], [5, 9, 8, 9, 8, 15, 5, 15]],
    ],
    ids=["list of runs", "compressed runs", "polygons"],
)
def test_a_segmentation_becomes_the_same_mask_whatever_its_kind(tmp_path: Path, segmentation: object) -> None:
    (case,) = read(written(tmp_path / "a.json", [annotation(segmentation=segmentation)]))
    assert np.array_equal(case.lesions[0].region.mask(), BLOB)


def test_a_box_that_is_missing_comes_from_the_mask(tmp_path: Path) -> None:
    found = annotation(segmentation={"size": [HEIGHT, WIDTH], "counts": column_runs(BLOB)})
    del found["bbox"]
    (case,) = read(written(tmp_path / "a.json", [found]))
    assert case.lesions[0].box == (5, 3, 20, 15)


@given(st.integers(1, 12), st.integers(1, 12), st.randoms())
def test_run_lengths_of_any_mask_give_it_back(height: int, width: int, random: object) -> None:
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    mask[random.randrange(height), random.randrange(width)] = True
    for counts in (column_runs(mask), compressed(mask)):
        region = region_of({"size": [height, width], "counts": counts}, width, height)
        assert np.array_equal(region.mask(), mask)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [WIDTH, HEIGHT], "counts": column_runs(BLOB)},
        {"size": [HEIGHT, WIDTH], "counts": column_runs(BLOB)[:-1]},
        {"size": [HEIGHT, WIDTH], "counts": [*column_runs(BLOB), 5]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": compressed(BLOB[:, :-1])},
        {"size": [HEIGHT, WIDTH], "counts": compressed(np.pad(BLOB, ((0, 0), (0, 1))))},
        {"size": [HEIGHT, WIDTH], "counts": "~~~~zzzz"},
        {"size": [HEIGHT, WIDTH], "counts": "ÿ"},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH]},
        [[5, 3, 15, 12]],  # four numbers: pycocotools would take them for a box
        [[1, 2, 3, 4, 5, 6, 7]],
        [[0, 0, 1e12, 0, 1e12, 1e12]],
        [["a", 0, 1, 0, 1, 1]],
        "mask",
    ],
)
def test_a_segmentation_that_cannot_be_read_is_counted_and_the_box_stands(tmp_path: Path, segmentation: object) -> None:
    problems = Problems()
    (case,) = read(written(tmp_path / "a.json", [annotation(segmentation=segmentation)]), problems)
    assert problems.counts == {Reason.MASK_UNREADABLE.value: 1}
    assert case.lesions[0].box == (5, 3, 20, 15) and case.lesions[0].region is None


def test_an_image_too_large_to_decode_is_counted(tmp_path: Path) -> None:
    problems = Problems()
    image = IMAGE | {"width": 10**7, "height": 10**7}
    (case,) = read(written(tmp_path / "a.json", [annotation(segmentation=[[1, 1, 5, 1, 5, 5]])], [image]), problems)
    assert problems.counts == {Reason.MASK_UNREADABLE.value: 1} and len(case.lesions) == 1


def test_a_modality_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"modality: expected one of CT, MR, .*, got 'xray'"):
        read(written(tmp_path / "a.json", []), modality="xray")


def test_an_image_may_be_a_frame_of_a_file(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": "run.dcm", "frame": n} for n in (0, 3)] + [
        {"id": 8, "file_name": "run.dcm", "frame": "3"},
        {"id": 9, "file_name": "run.dcm", "frame": -1},
    ]
    problems = Problems()
    cases = read(written(tmp_path / "a.json", [], images), problems)
    assert [(each.id, each.image.path, each.image.slice) for each in cases] == [
        ("0", "run.dcm", 0),
        ("3", "run.dcm", 3),
    ]
    assert problems.counts == {Reason.ROW_MALFORMED.value: 2}
    renamed = [{"id": 1, "file_name": "run.dcm", "index": 2}]
    assert read(written(tmp_path / "b.json", [], renamed), frame_key="index")[0].image.slice == 2


def test_crowds_carry_their_mark_or_stay_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", [annotation(iscrowd=1), annotation(id=2)])
    (case,) = read(path)
    assert [each.attributes for each in case.lesions] == [{"iscrowd": "1"}, {}]
    (case,) = read(path, crowds=False)
    assert [each.attributes for each in case.lesions] == [{}]


def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path) -> None:
    found = [
        annotation(id=1, category_id=1),
        annotation(id=2, bbox=[1, 2, 3]),
        annotation(id=3, bbox=[1, 2, 0, 4]),
        annotation(id=4, bbox=[WIDTH, 0, 5, 5]),
        annotation(id=5, image_id=8),
        annotation(id=6, image_id=[7]),
        annotation(id=7, bbox=[20, 10, 100, 100]),
    ]
    images = [IMAGE, IMAGE | {"id": "7", "file_name": "b.png"}, {"id": 9}, {"file_name": "c.png"}]
    problems = Problems()
    (case,) = read(written(tmp_path / "a.json", found, images), problems)
    assert [each.box for each in case.lesions] == [(20, 10, WIDTH, HEIGHT)]
    assert problems.counts == {
        Reason.LABEL_UNKNOWN.value: 1,
        Reason.BOX_MALFORMED.value: 1,
        Reason.BOX_EMPTY.value: 1,
        Reason.BOX_OUTSIDE.value: 1,
        Reason.ROW_MALFORMED.value: 4,
        Reason.DUPLICATE_ID.value: 1,
    }
    assert problems.examples[Reason.LABEL_UNKNOWN.value] == ["a.json: annotation 1: category_id 1"]
    with pytest.raises(DataError, match="unknown label id"):
        read(tmp_path / "a.json", Problems(strict=True))


def test_nothing_is_absent_unless_the_source_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", [annotation()])
    assert read(path)[0].absent == ()
    assert read(path, exhaustive=True)[0].absent == ("lung nodule",)
    lvis = IMAGE | {"neg_category_ids": [3]}
    assert read(written(tmp_path / "b.json", [annotation()], [lvis]))[0].absent == ("lung nodule",)


def test_what_a_dropped_annotation_names_is_not_absent(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", [annotation(bbox=[1, 2, 0, 0])])
    assert read(path, Problems(), exhaustive=True)[0].absent == ("lung nodule",)
    path = written(tmp_path / "b.json", [annotation(category_id=1)])  # may be either
    assert read(path, Problems(), exhaustive=True)[0].absent == ()


def test_patients_and_licences_come_from_the_file(tmp_path: Path) -> None:
    image = IMAGE | {"patient_id": "p1", "license": 4}
    path = written(tmp_path / "a.json", [], [image], licenses=[{"id": 4, "name": "CC-BY-4.0"}])
    assert [(each.patient, each.licence) for each in read(path)] == [("p1", "CC-BY-4.0")]
    assert read(path, licence="mine")[0].licence == "mine"
    assert read(written(tmp_path / "b.json", [], [IMAGE | {"patient_id": None}]))[0].patient == "7"


def test_images_are_found_and_missing_ones_reported(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "train" / "a.png")
    images = [IMAGE | {"file_name": "train/a.png"}, IMAGE | {"id": 8, "file_name": "train/b.png"}]
    path, problems = written(tmp_path / "a.json", [], images), Problems()
    cases = list(readers.read("coco", path, tmp_path, problems))
    assert [each.image.path for each in cases] == [str(tmp_path / "train" / "a.png")]
    assert problems.counts == {Reason.IMAGE_MISSING.value: 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [', "expected a COCO json file, got JSONDecodeError"),
        ("[]", "expected a COCO json object, got a list"),
        ('{"images": [], "annotations": []}', "under 'categories', got an object with images, annotations"),
        ('{"images": [1], "annotations": [], "categories": []}', "expected a list of objects under 'images'"),
        ("\xff\xfe", "expected a COCO json file"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.json")
