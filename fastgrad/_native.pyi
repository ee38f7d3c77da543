"""What csrc/bindings.cpp exports, for type checkers. Private: the seam is fastgrad.ops. Addresses and sizes are int."""

from array import array
from typing import Any

numerics_version: int
compiler: str

def instruction_sets() -> list[str]: ...
def parallel_engine() -> str: ...
def sweep(columns: dict[str, array[Any]], options: dict[str, Any], table: int) -> bool: ...  # False: skipped
def dequantize(
    columns: dict[str, array[Any]],
    count: int,
    format: int,
    block: int,
    out_type: int,
    threads: int,
    instruction_set: str,
) -> None: ...

# Only where the module was built with CUDA.
def cuda_unavailable(device: int) -> str: ...

class CudaSweep:
    upload_bytes: int
    workspace_bytes: int
    def __init__(self, columns: dict[str, array[Any]], options: dict[str, Any], device: int) -> None: ...
    def write_upload(self, host: int) -> None: ...
    def launch(self, upload: int, workspace: int, table: int, stream: int) -> None: ...

class CudaDequantize:
    upload_bytes: int
    def __init__(
        self, columns: dict[str, array[Any]], count: int, format: int, block: int, out_type: int, device: int
    ) -> None: ...
    def write_upload(self, host: int) -> None: ...
    def launch(self, upload: int, stream: int) -> None: ...
