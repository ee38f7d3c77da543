import pytest
from small_cases import small_cases, small_settings

from medclm.pipeline import convert_cases
from medclm.problems import Problems


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """24 images of 80 x 64 pixels with their questions in all stages."""
    folder = tmp_path_factory.mktemp("small")
    convert_cases(iter(small_cases(folder / "images")), folder / "set", small_settings(), Problems(), workers=1)
    return folder / "set"
