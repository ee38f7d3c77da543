"""``python -m bench.gpu_code``: reads the machine code of the GPU kernels and tells what it will cost.

For one file: ``python -m bench.gpu_code --file X.cu --kernel NAME --elements 32 --bytes 8 --arch 90``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

from bench.sass import gate, ops, report, tools
from bench.sass.roofline import read


def parser() -> argparse.ArgumentParser:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    arguments = argparse.ArgumentParser(prog="python -m bench.gpu_code", description=__doc__)
    arguments.add_argument("--archs", "--arch", type=numbers, default=[80, 90, 100], help="default 80,90,100")
    arguments.add_argument("--file", type=Path, help="read this .cu file only, and print everything")
    arguments.add_argument("--kernel", default="", help="with --file: a pattern of the names to print")
    arguments.add_argument(
        "--elements", type=int, default=ops.LANE_ELEMENTS, help="with --file: per lane and iteration (default 32)"
    )
    arguments.add_argument("--bytes", type=Fraction, help="with --file: DRAM bytes per element (also 9/2)")
    arguments.add_argument("--threads", type=int, help="with --file: threads per block")
    arguments.add_argument("--flags", default="", help="with --file: further flags of nvcc, '--flags=-DX -I...'")
    return arguments


def one_file(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        flags = (*options.flags.split(), *tools.FLAGS)  # the first -I wins
        build = tools.compile_all([tools.Unit(options.file, arch, flags) for arch in options.archs], Path(folder))
    for failure in build.failures:
        print(failure, file=sys.stderr)
    failed = bool(build.failures)
    for kernel in build.kernels:
        if not re.search(options.kernel, kernel.readable):
            continue
        op = ops.of_kernel(kernel.readable)
        if options.bytes is not None:
            op = ops.plain(kernel.readable, options.elements, options.bytes)
        reading = read(kernel, op, options.threads)
        failed |= bool(gate.violations(reading))
        print(report.full(reading))
    return int(failed)


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.file:
        return one_file(options)
    raise SystemExit("give --file")


if __name__ == "__main__":
    raise SystemExit(main())
