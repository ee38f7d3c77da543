"""``python -m fastgrad.cifar``: the same commands as ``fastgrad cifar``."""

from fastgrad.cifar.cli import app

app(prog_name="fastgrad cifar")
