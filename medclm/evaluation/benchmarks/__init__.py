"""Benchmarks out of local files. One module with a function ``read(path, problems, *, missing)`` and one entry in
BENCHMARKS each; nothing is downloaded."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from medclm.evaluation.questions import Benchmark
from medclm.problems import DataError, Problems

MISSING = ("error", "skip")


@dataclass(frozen=True)
class Reader:
    name: str
    title: str
    expects: str  # what the path is, in words

    def read(self, path: Path, problems: Problems, **options: str) -> Benchmark:
        return importlib.import_module(f"medclm.evaluation.benchmarks.{self.name}").read(path, problems, **options)


BENCHMARKS = {
    reader.name: reader
    for reader in (
        Reader("vqa_rad", "VQA-RAD", "the folder of 'VQA_RAD Dataset Public.json', or test-*.parquet"),
        Reader("slake", "SLAKE", "the folder of test.json and imgs"),
        Reader("path_vqa", "PathVQA", "the folder of qas/test/test_qa.pkl and images, or test-*.parquet"),
        Reader("pmc_vqa", "PMC-VQA", "the folder of test_2.csv, test_clean.csv or test.csv, or one of them"),
        Reader("omnimedvqa", "OmniMedVQA", "the folder of QA_information and Images, or one json file"),
        Reader("reports", "report generation", "a csv or json file of images and reports, or its folder"),
    )
}


def read(name: str, problems: Problems, *, missing: str = "error", split: str = "test") -> Benchmark:
    """name: the folder of a converted set, or BENCHMARK:PATH. Raises DataError for what is none of them."""
    if missing not in MISSING:
        raise DataError(f"missing: expected one of {', '.join(MISSING)}, got {missing!r}")
    kind, colon, path = name.partition(":")
    if kind in BENCHMARKS and colon:
        return BENCHMARKS[kind].read(Path(path), problems, missing=missing)
    if not Path(name).is_dir():
        raise DataError(
            f"on: expected the folder of a converted set, or one of {', '.join(BENCHMARKS)} with a path "
            f"(slake:FOLDER), got {name!r}"
        )
    from medclm.evaluation.benchmarks import converted

    return converted.read(Path(name), split=split)
