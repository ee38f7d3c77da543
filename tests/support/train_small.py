"""A training in a process of its own, for tests that kill it or take its disk away.

python train_small.py SET OUT '{"settings": "as JSON"}' [max_file_bytes]
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from medclm.problems import DataError
from medclm.training.loop import train
from medclm.training.settings import Settings


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
    try:
        train(Path(sys.argv[1]), Path(sys.argv[2]), Settings(**json.loads(sys.argv[3])))
    except DataError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
