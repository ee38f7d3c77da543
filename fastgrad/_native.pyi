"""What csrc/bindings.cpp exports, for type checkers. Private: the seam is fastgrad.ops. Addresses and sizes are int."""

from typing import Any

from torch import Tensor

Column = list[int] | list[float] | bytes  # one number per tensor; bytes: of 64-bit integers
Columns = dict[str, Column]

numerics_version: int
compiler: str

def instruction_sets() -> list[str]: ...
def parallel_engine() -> str: ...
def sweep(columns: Columns, options: dict[str, Any], table: int) -> bool: ...  # False: skipped
def dequantize(
    columns: Columns,
    count: int,
    format: int,
    block: int,
    out_type: int,
    threads: int,
    instruction_set: str,
) -> None: ...
class TensorReader:
    """Lists of plain tensors in this machine's memory; None, or False, where something in a list is none."""

    def __init__(self, exchange: object, types: tuple[type, ...]) -> None: ...
    def read(self, tensors: list[Tensor]) -> tuple[bytes, bytes, bytes, bool, bool] | None: ...
    def rows(self, tensors: list[Tensor]) -> list[int] | None: ...
    def are_apart(self, tensors: list[Tensor]) -> bool: ...

def prefer_large_pages(memory: int, bytes: int) -> None: ...

# Only where the module was built with CUDA.
def cuda_unavailable(device: int) -> str: ...

class CudaSweep:
    upload_bytes: int
    workspace_bytes: int
    def __init__(self, columns: Columns, options: dict[str, Any], device: int) -> None: ...
    def write_upload(self, host: int) -> None: ...
    def launch(self, upload: int, workspace: int, table: int, stream: int) -> None: ...

class CudaDequantize:
    upload_bytes: int
    def __init__(
        self, columns: Columns, count: int, format: int, block: int, out_type: int, device: int
    ) -> None: ...
    def write_upload(self, host: int) -> None: ...
    def launch(self, upload: int, stream: int) -> None: ...
