"""A converted set of small images, with a train and a test split."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_cases import small_cases, small_settings

from medclm import pipeline
from medclm.problems import Problems


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("converted")
    cases = small_cases(place / "images", 24)
    pipeline.convert_cases(iter(cases), place / "set", small_settings(ratios=(0.5, 0.1, 0.4)), Problems(), workers=1)
    return place / "set"
