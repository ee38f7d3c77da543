"""What is read: the shipped CUDA kernels, the wrappers of single ops, and the Triton kernels."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from bench.sass.tools import FLAGS, ROOT, Build, Kernel, Unit, from_cubin

FORMATS = ("fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8", "int4")
FORMAT_MACRO = "FASTGRAD_CUDA_FORMAT"  # a file that has it is compiled once for each format
WRAPPERS = ROOT / "bench" / "gpu_ops.cu"


def shipped(archs: list[int], formats: tuple[str, ...] = FORMATS) -> Iterator[Unit]:
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        variants = formats if FORMAT_MACRO in source.read_text() else ("",)
        for variant in variants:
            flags = (*FLAGS, f"-D{FORMAT_MACRO}={variant}") if variant else FLAGS
            for arch in archs:
                yield Unit(source, arch, flags, variant)


def wrappers(archs: list[int]) -> Iterator[Unit]:
    if WRAPPERS.exists():
        yield from (Unit(WRAPPERS, arch, FLAGS) for arch in archs)


def triton(archs: list[int], folder: Path) -> tuple[Build, str | None]:
    """The Triton kernels, compiled ahead of time; or why there are none."""
    build = Build()
    try:
        from triton.backends.compiler import GPUTarget

        ahead = importlib.import_module("fastgrad.triton_kernels.ahead")
    except ImportError as error:
        return build, f"not read: {error}"
    for arch in archs:
        for number, (name, compiled) in enumerate(ahead.compiled(GPUTarget("cuda", arch, 32))):
            cubin = folder / f"triton.{number}.sm_{arch}.cubin"
            cubin.write_bytes(compiled.asm["cubin"])
            build.kernels += _named(from_cubin(cubin, arch, compiled.asm["ptx"], source="triton"), name, compiled)
    return build, None


def _named(kernels: list[Kernel], name: str, compiled: object) -> list[Kernel]:
    warps = getattr(getattr(compiled, "metadata", None), "num_warps", None)
    for kernel in kernels:
        kernel.readable = name
        kernel.threads = kernel.threads or (32 * warps if warps else None)
    return kernels
