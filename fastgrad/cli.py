"""Fused gradient normalization and stochastic rounding."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Fused gradient normalization and stochastic rounding."
)


@app.callback()
def callback() -> None:
    """Fused gradient normalization and stochastic rounding."""


@app.command()
def info() -> None:
    """Versions, instruction set, threads, and which kernel each op runs on each device, and why."""
    from fastgrad import library

    console = Console()
    facts = Table(show_header=False, box=None)
    for name, value in library.info().items():
        facts.add_row(f"[bold]{name}", value)
    console.print(facts)
    kernels = Table("op", "device", "kernel", "why")
    for row in library.op_infos():
        kernels.add_row(row.op, row.device, row.kernel, row.reason)
    console.print(kernels)


def main() -> None:
    from fastgrad.cifar.cli import app as cifar
    from fastgrad.shrinkage_cli import app as shrinkage

    app.add_typer(cifar, name="cifar", help="The CIFAR experiments.")
    app.add_typer(shrinkage, name="shrinkage", help="What shrinkage does to SGD.")
    app()


if __name__ == "__main__":
    main()
