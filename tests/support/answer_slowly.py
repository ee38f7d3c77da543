"""SLAKE's folder, the output's folder, seconds a batch: answers, one question a batch, until it is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from medclm.evaluation import benchmarks
from medclm.evaluation.answering import Reply
from medclm.evaluation.predicting import Asking, predict
from medclm.problems import Problems


class Slow:
    name, fingerprint = "slow", "s" * 32

    def __init__(self, seconds: float) -> None:
        self.seconds, self.answered = seconds, 0

    def __call__(self, rows, asked):
        if self.answered:
            time.sleep(self.seconds)
        self.answered += 1
        return [Reply(f"{row['id']}: {each.text}") for row, each in zip(rows, asked, strict=True)]


if __name__ == "__main__":
    benchmark = benchmarks.read(f"slake:{sys.argv[1]}", Problems())
    predict(benchmark, Slow(float(sys.argv[3])), Path(sys.argv[2]), Asking(batch_size=1))
