"""A conversion of small cases in a process of its own, for tests that kill it or take its disk away.

python convert_small.py IMAGES OUT [max_file_bytes]
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from small_cases import small_cases, small_settings

from medclm.pipeline import convert_cases
from medclm.problems import DataError, Problems

COUNT = 30


def main() -> None:
    images, out = Path(sys.argv[1]), Path(sys.argv[2])
    cases = small_cases(images, COUNT, size=256)
    if len(sys.argv) > 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        convert_cases(iter(cases), out, small_settings(shard_cases=2), Problems(), workers=2)
    except DataError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
