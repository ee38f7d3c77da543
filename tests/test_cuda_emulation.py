"""The CUDA emulation itself: right results under every schedule, and every planted mistake is caught."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "cuda_on_cpu"
GXX = shutil.which("g++")
FLAGS = ["-std=c++20", "-g", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-math-errno", f"-I{SOURCES}"]
SEEDS = 20
RESIDENT = (1, 2, 5)
MASK32 = 0xFFFFFFFF

pytestmark = pytest.mark.skipif(GXX is None, reason="no g++ on this machine")


def execute(*command: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ASAN_OPTIONS": "exitcode=66:detect_leaks=0", "TSAN_OPTIONS": "exitcode=66"}
    return subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def compiled(folder: Path, *options: str) -> Path:
    """selftest.cu, compiled with these options."""
    program = folder / "selftest"
    sources = ["-x", "c++", SOURCES / "selftest.cu", SOURCES / "cuda_on_cpu.cpp"]
    built = execute(GXX, *FLAGS, *options, *sources, "-o", program, timeout=300)
    assert built.returncode == 0, built.stderr
    assert not built.stderr, built.stderr
    return program


def sanitized(folder: Path, sanitizer: str, *options: str) -> Path:
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}\n")
    built = execute(GXX, f"-fsanitize={sanitizer}", empty, "-o", folder / "empty")
    if built.returncode != 0 or execute(folder / "empty").returncode != 0:
        pytest.skip(f"-fsanitize={sanitizer} does not work here: {built.stderr.strip()[-200:]}")
    return compiled(folder, "-O1", f"-fsanitize={sanitizer}", *options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return compiled(tmp_path_factory.mktemp("plain"), "-O2")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Path:
    return sanitized(tmp_path_factory.mktemp("address"), "address,undefined")


@pytest.fixture(scope="module")
def thread(tmp_path_factory) -> Path:
    return sanitized(tmp_path_factory.mktemp("thread"), "thread")


@pytest.fixture(scope="module")
def fences(tmp_path_factory) -> Path:
    return sanitized(tmp_path_factory.mktemp("fences"), "thread", "-DCUDA_ON_CPU_STRICT_FENCES")


def inputs(count: int) -> list[int]:
    return [i * 2654435761 >> 24 & MASK32 for i in range(count)]


def bits(format: str, value: float) -> int:
    return int.from_bytes(struct.pack(format, value)[:4], "little")


def block_sums() -> list[int]:
    values = inputs(256)
    return [(sum(values) + 2 * values[i ^ 1]) & MASK32 for i in range(4)]


def last_block() -> list[int]:
    values = inputs(50 * 32)
    total = sum((b + 1) * (sum(values[b * 32 : b * 32 + 32]) & MASK32) for b in range(50))
    return [total & MASK32, total >> 32, 0, 0]


def chained_sum() -> list[int]:
    values = inputs(4 * 32)
    return [sum(values[: 32 * (b + 1)]) & MASK32 for b in range(4)]


def arithmetic() -> list[int]:
    x, y = 0x33221100, 0x778855C4
    both = y << 32 | x
    reverse = int(f"{x:032b}"[::-1], 2)
    # selector c471, low nibble first: byte 1, byte 7, byte 4, and the sign of byte 4
    permuted = 0x11 | 0x77 << 8 | 0xC4 << 16 | 0xFF << 24
    first = permuted ^ ((both << 5) >> 32 & MASK32) ^ (both >> 4 & MASK32) ^ reverse
    second = (x * y >> 32) + x.bit_count() + 100 * 1 + 10000 * 3 + 1000000 * 23

    def single(v: float) -> float:
        return struct.unpack("<f", struct.pack("<f", v))[0]

    third = single(1 / 3)
    fourth = bits("<d", 0.1 * 0.1 + math.sqrt(2.0)) + 0x7FFFFFFF + 2
    return [first, second & MASK32, bits("<f", single(third * third) + single(math.sqrt(2.0))), fourth & MASK32]


EXPECTED = {
    "block_sums": block_sums(),
    "last_block": last_block(),
    "chained_sum": chained_sum(),
    # lane 0: the even lanes' sum; every fourth lane; the sum of 0..30 and 7; lane 2's value and the barrier's count
    "divergence": [sum(range(0, 32, 2)), 0x11111111, sum(range(31)) + 7, 0 + 4 + 6],
    "poison": [512] * 4,
    "arithmetic": arithmetic(),
    "locked_count": [420, bits("<f", 210.0), 0, 0],
}


@pytest.mark.parametrize("case", EXPECTED)
def test_results_are_right_under_every_schedule(plain, case):
    ran = execute(plain, case, str(SEEDS))
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [(int(seed), int(resident)) for seed, resident, *_ in lines] == [
        (seed, resident) for seed in range(SEEDS + 1) for resident in RESIDENT
    ]
    assert {tuple(line[2:]) for line in lines} == {
        (lines[0][2], *(str(value) for value in EXPECTED[case]), "cudaSuccess")
    }


def test_the_context_switch_of_other_machines(tmp_path):
    program = compiled(tmp_path, "-O1", "-DCUDA_ON_CPU_UCONTEXT")
    for case in ("block_sums", "divergence", "chained_sum"):
        ran = execute(program, case, "1")
        assert ran.returncode == 0 and not ran.stderr, ran.stderr
        assert {tuple(line.split()[3:7]) for line in ran.stdout.splitlines()} == {tuple(map(str, EXPECTED[case]))}


@pytest.mark.parametrize("case", ["no_barrier", "no_syncwarp"])
def test_a_race_shows_in_the_results(plain, case):
    ran = execute(plain, case, str(SEEDS))
    assert ran.returncode == 0, ran.stderr
    assert len({line.split()[2] for line in ran.stdout.splitlines()}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("case", ["block_sums", "last_block", "chained_sum", "divergence", "poison", "locked_count"])
def test_sanitizers_are_silent_on_correct_kernels(address, thread, case):
    for program in (address, thread):
        ran = execute(program, case, "1")
        assert ran.returncode == 0 and not ran.stderr, ran.stderr[:2000]
        assert {tuple(line.split()[3:]) for line in ran.stdout.splitlines()} == {
            (*(str(value) for value in EXPECTED[case]), "cudaSuccess")
        }


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no_barrier", "no_syncwarp", "same_cell"])
def test_thread_sanitizer_reports_a_race(thread, case):
    ran = execute(thread, case)
    assert ran.returncode == 66
    assert "ThreadSanitizer: data race" in ran.stderr and "selftest.cu" in ran.stderr


@pytest.mark.slow
def test_strict_fences_report_a_missing_one(thread, fences):
    for case in ("last_block", "chained_sum"):
        ran = execute(fences, case, "1")
        assert ran.returncode == 0 and not ran.stderr, ran.stderr[:2000]
    assert execute(thread, "no_fence").returncode == 0
    ran = execute(fences, "no_fence")
    assert ran.returncode == 66 and "ThreadSanitizer: data race" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", ["global_overrun", "shared_overrun"])
def test_address_sanitizer_reports_an_overrun(address, case):
    ran = execute(address, case)
    assert ran.returncode == 66
    assert "AddressSanitizer: heap-buffer-overflow" in ran.stderr and "selftest.cu" in ran.stderr


REPORTS = {
    "half_barrier": (
        "cudaErrorLaunchTimeout",
        "block (0,0,0) warp 1 lanes 0x0000ffff (first: lane 0) wait in __syncthreads, which 32 of 64 running threads",
    ),
    "mixed_collectives": (
        "cudaErrorLaunchTimeout",
        "block (0,0,0) warp 0 lanes 0xffff0000 (first: lane 16) wait in __any_sync(0xffffffff) for lanes 0x0000ffff",
    ),
    "endless_spin": ("cudaErrorLaunchTimeout", "block (0,0,0) warp 0 lanes 0x00000001 (first: lane 0) spin"),
    "wrong_mask": ("cudaErrorLaunchFailure", "block (0,0,0) warp 1 lane 3: a collective with mask 0x00000001"),
    "trap": ("cudaErrorLaunchFailure", "block (1,0,0) warp 1 lane 1: __trap()"),
    "failed_assertion": ("cudaErrorAssert", "block (0,0,0) warp 1 lane 2: "),
    "misaligned": ("cudaErrorMisalignedAddress", "block (0,0,0) warp 0 lane 1: "),
    "nested_launch": ("cudaErrorNotSupported", "block (0,0,0) warp 0 lane 0: a launch from a kernel"),
    "planned_failure": ("cudaErrorMemoryAllocation", ""),
    "too_many_threads": ("cudaErrorInvalidConfiguration", ""),
}


@pytest.mark.parametrize("case", REPORTS)
def test_a_failure_is_reported_with_its_place(plain, case):
    error, message = REPORTS[case]
    ran = execute(plain, case)
    assert ran.returncode == 0
    assert message in ran.stderr
    assert {line.split()[-1] for line in ran.stdout.splitlines()} == {error}


def test_thread_sanitizer_is_silent_after_a_failed_launch(thread):
    for case in ("half_barrier", "trap"):
        ran = execute(thread, case, "1")
        assert ran.returncode == 0 and "ThreadSanitizer" not in ran.stderr, ran.stderr[:2000]
