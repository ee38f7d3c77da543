"""Benchmarks as they are published, a few questions each: names of files and fields, and their quirks."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> Path:
    """Smooth noise: no two are alike, and each keeps its look when it is scaled or compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def _json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def vqa_rad(folder: Path) -> Path:
    def entry(qid, phrase, image, question, answer, kind, organ="CHEST", case="https://medpix.nlm.nih.gov/case?id=1"):
        return {
            "qid": qid, "phrase_type": phrase, "qid_linked_id": f"03f451ca-{qid}", "image_case_url": case,
            "image_name": image, "image_organ": organ, "evaluation": "not evaluated", "question": question,
            "question_rephrase": "NULL", "question_relation": "NULL", "question_frame": "NULL", "question_type": "PRES",
            "answer": answer, "answer_type": kind,
        }  # fmt: skip

    entries = [
        entry(0, "freeform", "synpic1.jpg", "Are regions of the brain infarcted?", "Yes", "CLOSED"),
        entry(1, "test_freeform", "synpic1.jpg", "Is there a pneumothorax?", "No ", "CLOSED "),
        entry("2", "test_para", "synpic2.jpg", "How many nodules?", 2, "OPEN", "HEAD"),
        entry(3, "para", "synpic3.jpg", "What is this?", "a lung", "OPEN"),
        entry(4, "test_freeform", "synpic2.jpg", "Which side?", "Left", "CLOSED", "HEAD"),
    ]
    for number in (1, 2, 3):
        picture(folder / "VQA_RAD Image Folder" / f"synpic{number}.jpg", number)
    _json(folder / "VQA_RAD Dataset Public.json", entries)
    return folder


def slake(folder: Path) -> Path:
    def entry(qid, image, question, answer, kind="OPEN", language="en", modality="CT", content="Organ"):
        return {
            "img_id": image, "img_name": f"xmlab{image}/source.jpg", "question": question, "answer": answer,
            "q_lang": language, "location": "Chest_lung", "modality": modality, "answer_type": kind,
            "base_type": "vqa", "content_type": content, "triple": ["vhead", "_", "_"], "qid": qid,
        }  # fmt: skip

    tests = [
        entry(11, 1, "Is the lung healthy?", "No", "CLOSED"),
        entry(12, 1, "这是什么模态？", "CT", language="zh"),
        entry(13, 2, "Where is the mass?", "Left Lung", modality="X-Ray", content="Position"),
        entry(14, 2, "Which modality is used?", "X-Ray", "CLOSED", modality="X-Ray", content="Modality"),
    ]
    for number in (1, 2):
        picture(folder / "imgs" / f"xmlab{number}" / "source.jpg", 10 + number)
    _json(folder / "test.json", tests)
    _json(folder / "train.json", [entry(1, 2, "?", "x")])  # the image of xmlab2 in both
    return folder


def path_vqa(folder: Path) -> Path:
    entries = [
        {"image": "test_0001", "question": "is the nucleus visible?", "answer": "yes"},
        {"image": "test_0001", "question": "what is present?", "answer": "basophils"},
        {"image": "test_0002", "question": "what shows ulceration?", "answer": "yes, it does"},
    ]
    file = folder / "pvqa" / "qas" / "test" / "test_qa.pkl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(entries))
    for number in (1, 2):
        picture(folder / "pvqa" / "images" / "test" / f"test_000{number}.jpg", 20 + number)
    return folder


def hub_copy(folder: Path) -> Path:
    """As VQA-RAD and PathVQA are on the hub: images in parquet files."""
    for split, seeds in (("train", (30, 31)), ("test", (31, 32))):
        files = [picture(folder / "pictures" / f"{seed}.png", seed) for seed in seeds]
        table = pa.table(
            {
                "image": [{"bytes": file.read_bytes(), "path": None} for file in files],
                "question": [f"is it {seed}?" for seed in seeds],
                "answer": ["yes", "a lung"],
            }
        )
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001-abc.parquet")
    return folder


def pmc_vqa(folder: Path) -> Path:
    """Both versions."""
    choices = (" A:Diffuse uptake pattern ", " B:Focal uptake pattern ", " C:No uptake ", " D:Cannot be told ")
    names = ("Choice A", "Choice B", "Choice C", "Choice D")
    first = ["Figure_path", "Question", "Answer", *names, "Answer_label"]
    second = ["index", "Figure_path", "Caption", "Question", *names, "Answer", "split"]
    question = "What is the uptake pattern, in short?"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "test_clean.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(first)
        rows.writerow(["PMC1_F1.jpg", question, "Focal uptake pattern", *choices, "B"])
    with open(folder / "test_2.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(second)
        rows.writerow(["0", "PMC1_F1.jpg", "A caption, with a comma", question, *choices, "B", "test"])
        rows.writerow(["1", "PMC2_F1_1.jpg", "x", question, *choices, "A", "test"])
        rows.writerow(["2", "PMC2_F1_1.jpg", "x", question, *choices, "E", "test"])  # no such choice
    picture(folder / "images" / "PMC1_F1.jpg", 41)
    picture(folder / "images_2" / "PMC2_F1_1.jpg", 42)
    return folder


def omnimedvqa(folder: Path) -> Path:
    def entry(number, answer, modality_field="modality_type", **options):
        return {
            "dataset": "Chest CT Scan", "question_id": f"chest_{number:04d}", "question_type": "Modality Recognition",
            "question": "What imaging technique is this?", "gt_answer": answer,
            "image_path": f"Images/Chest CT Scan/{number}.png", **options, modality_field: "CT(Computed Tomography)",
        }  # fmt: skip

    four = {"option_A": "MRI", "option_B": "CT", "option_C": "X-ray", "option_D": "PET"}
    _json(
        folder / "QA_information" / "Open-access" / "Chest CT Scan.json",
        [
            entry(1, "CT", **four),
            entry(2, "No", "modality", option_A="Yes", option_B="No"),  # two options, and the one odd field
            entry(3, "Ultrasound", **four),  # the answer is no option
        ],
    )
    for number in (1, 2, 3):
        picture(folder / "Images" / "Chest CT Scan" / f"{number}.png", 50 + number)
    return folder


def reports(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "reports.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "report", "patient", "modality", "split"])
        rows.writerow(["r1", "1.png", "The heart is normal. No effusion.", "p1", "XR", "test"])
        rows.writerow(["r2", "2.png", "", "p2", "XR", "test"])  # nothing written
        rows.writerow(["r3", "2.png", "Cardiomegaly.", "p2", "XR", "train"])
    for number in (1, 2):
        picture(folder / "images" / f"{number}.png", 60 + number)
    return folder


def r2gen(folder: Path) -> Path:
    """annotation.json of R2Gen's IU X-Ray: several images a report."""
    tests = [{"id": "CXR1", "report": "No acute disease.", "image_path": ["CXR1/0.png", "CXR1/1.png"], "split": "test"}]
    _json(folder / "annotation.json", {"train": [], "val": [], "test": tests})
    picture(folder / "images" / "CXR1" / "0.png", 70)
    return folder
