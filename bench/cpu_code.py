"""Instructions of the CPU kernels that round, read from the compiled module.

``python -m bench.cpu_code [--module PATH]`` prints, for 128 elements (sixteen columns of eight rows with AVX-512, two
times eight with AVX2), what one turn of the loop of ``quantize_columns`` executes where a whole tile is rounded. Needs
binutils' objdump.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fastgrad import library
from fastgrad.ops.sweeps import FORMATS

# Of the rows of the benchmark: name, instantiation of quantize_rows (format, blocks, scaling, fits), with noise.
ROWS = {
    "bf16": ("bf16", "false", 0, "true"),
    "fp8_e4m3, one scale": ("fp8_e4m3", "false", 1, "true"),
    "int8, scales of blocks": ("int8", "true", 1, "true"),
    "fp4_e2m1, scales of blocks": ("fp4_e2m1", "true", 1, "false"),
}
# Instructions that no vector unit executes: loads and stores move through units of their own, copies between registers
# are renamed.
_MOVES = re.compile(r"v(mov(dq|ap|up)|broadcast|lddqu)|prefetch")


@dataclass(frozen=True)
class Loop:
    """One turn, for 128 elements."""

    instructions: int
    vector: int  # of these, executed by the vector units
    multiplications: int  # those of the noise
    shuffles: int


Code = list[tuple[int, str, str]]  # address, mnemonic, operands


def disassemble(module: Path) -> dict[str, Code]:
    """Demangled name of every function -> its instructions."""
    objdump = shutil.which("objdump")
    if objdump is None:
        raise FileNotFoundError("objdump (binutils) is not installed")
    text = subprocess.run(
        [objdump, "--disassemble", "--no-show-raw-insn", "--demangle", str(module)], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    functions: dict[str, Code] = {}
    current: Code = []
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]{8,} <(.*)>:$", line):
            current = functions.setdefault(head[1], [])
        elif body := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            current.append((int(body[1], 16), body[2], body[3]))
    return functions


def loops(function: Code) -> list[Code]:
    """The instructions between every backward jump and its target."""
    places = {address: i for i, (address, _, _) in enumerate(function)}
    found = []
    for end, (_, mnemonic, operands) in enumerate(function):
        target = re.match(r"[0-9a-f]+", operands) if mnemonic.startswith("j") else None
        start = places.get(int(target[0], 16), end) if target else end
        if start < end:
            found.append(function[start : end + 1])
    return found


def branches(body: Code) -> int:
    return sum(mnemonic.startswith("j") for _, mnemonic, _ in body)


def count(body: Code, elements: int) -> Loop:
    """Scaled to 128 elements."""
    times = 128 // elements
    kinds = Counter(mnemonic for _, mnemonic, _ in body)
    vector = sum(n for kind, n in kinds.items() if kind.startswith(("v", "k")) and not _MOVES.match(kind))
    return Loop(
        instructions=times * len(body),
        vector=times * vector,
        multiplications=times * sum(n for kind, n in kinds.items() if kind.startswith("vpmuludq")),
        shuffles=times * sum(n for kind, n in kinds.items() if kind.startswith("vpshuf")),
    )


def rounding_loops(functions: dict[str, Code], isa: str) -> dict[str, Loop]:
    """Of every row of the benchmark the loop over the columns of a whole tile: of those without a loop inside that make
    noise and add up the sums of eight rows the one with the fewest branches. (A row that may be missing is one.)"""
    elements = {"avx512": 128, "avx2": 64}[isa]
    result = {}
    for name, (format, blocks, scaling, fits) in ROWS.items():
        wanted = (
            f"fastgrad::{isa}::quantize_rows<(fastgrad::{isa}::Format){FORMATS.index(format)}, "
            f"(fastgrad::{isa}::Rounding)0, {blocks}, (fastgrad::{isa}::Scaling){scaling}, {fits}>"
        )
        bodies = [body for head, function in functions.items() if wanted in head for body in loops(function)]
        whole = [
            body for body in bodies
            if sum(m == "vaddps" for _, m, _ in body) == 24 and sum(m == "vpmuludq" for _, m, _ in body) >= 20
            and len(loops(body)) == 1
        ]  # fmt: skip
        if not whole:
            raise LookupError(f"no loop of {wanted} rounds a whole tile")
        result[name] = count(min(whole, key=lambda body: (branches(body), len(body))), elements)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", type=Path, help="default: the module that is installed")
    module = parser.parse_args().module
    if module is None:
        if library.native is None:
            parser.error("the native module was not built")
        module = Path(library.native.__file__)
    functions = disassemble(module)
    print("| for 128 elements | instruction set | instructions | in vector units | noise: multiplications | shuffles |")
    print("|---|---|--:|--:|--:|--:|")
    for isa in ("avx512", "avx2"):
        for name, loop in rounding_loops(functions, isa).items():
            print(
                f"| {name} | {isa} | {loop.instructions} | {loop.vector} | {loop.multiplications} | {loop.shuffles} |"
            )


if __name__ == "__main__":
    main()
