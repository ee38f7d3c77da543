"""``python -m bench.gpu_code``: reads the machine code of the GPU kernels and tells what it will cost.

Without a device. Exit code 1 if a kernel breaks a rule (bench/sass/gate.py). For one file:
``python -m bench.gpu_code --file X.cu --kernel NAME --elements 32 --bytes 8 --arch 90``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

from bench.sass import gate, markdown, ops, report, sources, tools
from bench.sass.roofline import Reading, read

BUILD = tools.ROOT / "build" / "gpu_code"
PAGE = tools.ROOT / "build" / "gpu_code.md"


def parser() -> argparse.ArgumentParser:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    def formats(text: str) -> tuple[str, ...]:
        unknown = set(text.split(",")) - set(sources.FORMATS)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected {', '.join(sources.FORMATS)}")
        return tuple(text.split(","))

    a = argparse.ArgumentParser(prog="python -m bench.gpu_code", description=__doc__)
    a.add_argument("--archs", "--arch", type=numbers, default=[80, 90, 100], help="default 80,90,100")
    a.add_argument("--formats", type=formats, default=sources.FORMATS, help="of the shipped kernels; default all")
    a.add_argument("--only", choices=("wrappers", "shipped", "triton"), help="read these only, and write no page")
    a.add_argument("--json", type=Path, help="where to store everything that was read")
    a.add_argument("--out", type=Path, default=PAGE, help="the page (default build/gpu_code.md)")
    a.add_argument("--strict", action="store_true", help="a miss fails, too")
    a.add_argument("--file", type=Path, help="read this .cu file only, and print everything")
    a.add_argument("--kernel", default="", help="with --file: a pattern of the names to print")
    a.add_argument("--elements", type=int, default=ops.LANE_ELEMENTS, help="with --file: per lane and iteration (32)")
    a.add_argument("--bytes", type=Fraction, help="with --file: DRAM bytes per element (also 9/2)")
    a.add_argument("--show", action="store_true", help="with --file: list the instructions of the hot path")
    a.add_argument("--threads", type=int, help="with --file: threads per block (default: the launch bounds, or 256)")
    a.add_argument("--flags", default="", help="with --file: further flags of nvcc, '--flags=-DX -I...'")
    return a


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
        if options.show:
            print(report.listing(reading))
    return int(failed)


def read_all(kernels: list[tools.Kernel]) -> list[Reading]:
    return [read(kernel, ops.of_kernel(kernel.readable)) for kernel in kernels]


def survey(archs: list[int], formats: tuple[str, ...], only: str | None = None) -> markdown.Findings:
    """Compiles and reads everything there is."""
    BUILD.mkdir(parents=True, exist_ok=True)
    found = markdown.Findings(archs, {name: tools.version(name) for name in ("nvcc", "ptxas", "nvdisasm")})
    if only in (None, "wrappers"):
        build = tools.compile_all(list(sources.wrappers(archs)), BUILD)
        found.wrappers, found.failures = read_all(build.kernels), build.failures
        if not sources.WRAPPERS.exists():
            found.notes.append(f"wrappers not read: there is no {sources.WRAPPERS.relative_to(tools.ROOT)}")
        unlisted = sorted({r.op.name for r in found.wrappers if r.op and not r.op.listed})
        found.notes += [f"{name} is not listed in bench/sass/ops.py: its stores are not checked" for name in unlisted]
    if only in (None, "shipped"):
        units = list(sources.shipped(archs, formats))
        build = tools.compile_all(units, BUILD)
        found.shipped = read_all(build.kernels)
        found.failures += build.failures
        if not units:
            found.notes.append("shipped kernels not read: there is no csrc/cuda/*.cu")
    if only in (None, "triton"):
        build, reason = sources.triton(archs, BUILD)
        found.triton = read_all(build.kernels)
        found.notes += [f"Triton kernels {reason}"] if reason else []
    return found


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        if options.file:
            return one_file(options)
        found = survey(options.archs, options.formats, options.only)
    except tools.ToolMissing as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(markdown.as_json(found), indent=1) + "\n")
    violations, misses = found.violations(), found.misses()
    if options.only is None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(markdown.markdown(found))
    else:
        for reading in found.readings:
            print(report.full(reading))
    for text in found.notes:
        print(text)
    for text in misses:
        print(f"miss: {text}")
    for text in violations:
        print(f"violation: {text}")
    print(f"{len(found.readings)} kernels read: {len(violations)} violations, {len(misses)} misses")
    return int(bool(violations) or (options.strict and bool(misses)))


if __name__ == "__main__":
    raise SystemExit(main())
