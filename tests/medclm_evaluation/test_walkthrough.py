"""What a newcomer types first, with the real volumes and the tiny model: `medclm sample-data`, convert, train, eval,
report, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from organ_cases import sample_volumes


def test_from_the_sample_volumes_to_a_report(tmp_path):
    sample_volumes(tmp_path / "volumes")  # skips where the packages cannot be fetched
    environment = os.environ | {
        "MEDCLM_CACHE": str(tmp_path / "cache"), "XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip

    def medclm(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "medclm.cli", *map(str, words)], cwd=tmp_path, env=environment, text=True,
            capture_output=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    medclm("sample-data")
    # A user's salt is random; which of five volumes are for training hangs on it.
    (tmp_path / "salt").write_text("a salt of tests, with volumes in the training and the test split\n")
    medclm("convert", "sample", "--out", "sample", "--split", "0.5,0.1,0.4", "--salt-file", "salt")
    medclm("train", "sample", "--model", "tiny", "--out", "run", "--max-steps", "4", "--evaluate-every", "0")
    said = medclm("eval", "run", "--on", "sample", "--out", "eval", "--limit", "12", "--max-new-tokens", "64")
    assert "12 questions" in said
    scores = json.loads((tmp_path / "eval" / "sample" / "scores.json").read_text())
    assert scores["questions"] == 12 and 0 <= scores["profiles"]["strict"]["all"]["accuracy"]["mean"] <= 1
    medclm("report", "eval", "--out", "page")
    page = (tmp_path / "page" / "index.html").read_text()
    assert "data:image/png;base64," in page and "accuracy" in page
