"""OmniMedVQA (Hu et al. 2024), multiple choice: ``QA_information/Open-access/<dataset>.json`` beside ``Images``.

    [{"dataset", "question_id", "question_type", "question", "gt_answer", "image_path", "option_A", .., "option_D",
      "modality_type"}]

Questions have two to four options. One entry of "Chest CT Scan.json" says ``modality`` for ``modality_type``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medclm.evaluation.benchmarks import files
from medclm.evaluation.questions import Benchmark, Question
from medclm.problems import DataError, Problems

WHAT = "omnimedvqa"
FIELDS = ("question_id", "question", "gt_answer", "image_path", "option_A")
MODALITIES = {
    "CT(Computed Tomography)": "CT",
    "MR (Mag-netic Resonance Imaging)": "MR",
    "X-Ray": "XR",
    "ultrasound": "US",
    "Dermoscopy": "dermoscopy",
    "Fundus Photography": "fundus",
    "Microscopy Images": "pathology",
    "OCT (Optical Coherence Tomography": "OCT",  # the bracket is never closed
}


def read(path: Path, problems: Problems, *, missing: str = "error") -> Benchmark:
    """``path`` is the folder with QA_information, or one of its json files."""
    if path.is_file():
        chosen, root = [path], next((each for each in path.parents if (each / "Images").is_dir()), path.parent)
    else:
        inner = path / "OmniMedVQA"
        root = inner if (inner / "QA_information").is_dir() else path
        chosen = sorted((root / "QA_information" / "Open-access").glob("*.json"))
        if not chosen:
            raise DataError(f"{WHAT}: expected QA_information/Open-access/*.json in {path}, got none")
    images = files.Images(root, missing, problems, WHAT)
    return files.assemble(WHAT, path, f"OmniMedVQA, {len(chosen)} files", _pairs(chosen, images, problems))


def _pairs(chosen: list[Path], images: files.Images, problems: Problems) -> Iterator[tuple[Question, Path]]:
    for file in chosen:
        entries = files.json_list(file, WHAT)
        files.check_fields(entries, FIELDS, file, WHAT)
        for entry in entries:
            where = f"{file.name}: {entry['question_id']}"
            letters = [letter for letter in "ABCD" if files.text_of(entry.get(f"option_{letter}"))]
            choices = tuple(files.text_of(entry[f"option_{letter}"]) for letter in letters)
            answer = files.text_of(entry["gt_answer"])
            if answer not in choices:
                files.malformed(problems, where, f"expected gt_answer among the options, got {answer!r}")
                continue
            place = images.find(where, str(entry["image_path"]))
            if place is None:
                continue
            modality = files.text_of(entry.get("modality_type") or entry.get("modality"))
            groups = {
                "modality": (MODALITIES.get(modality, modality),),
                "question_type": (files.text_of(entry.get("question_type")),),
                "dataset": (files.text_of(entry.get("dataset")),),
            }
            yield (
                Question(
                    id=f"{file.stem}/{entry['question_id']}",
                    question=files.text_of(entry["question"]),
                    answer=answer,
                    answer_type="CLOSED",
                    choices=choices,
                    options=tuple(f"{letter}. {each}" for letter, each in zip(letters, choices, strict=True)),
                    image=str(entry["image_path"]),
                    groups={name: values for name, values in groups.items() if values[0]},
                ),
                place,
            )
