"""Where the C++ headers of the numeric contract are, for other people's kernels."""

from __future__ import annotations

from pathlib import Path


def get_include() -> str:
    """The folder to give to a C++ compiler's ``-I``: ``#include <fastgrad/numerics.h>`` then brings the tile, Philox
    noise, formats, rounding, moments and the steps of SGD and AdamW (docs/numerics.md), header-only, without torch.

    Compile with C++20 and ``-ffp-contract=off`` (nvcc: ``--fmad=false``), never with fast-math: the results are then
    fastgrad's own, bit for bit. ``examples/cpp_extension`` is an extension made so.

    Errors: FileNotFoundError if this installation has no headers.
    """
    package = Path(__file__).resolve().parent
    # Installed beside the package's modules, or where they are in a source tree.
    candidates = [package / "csrc" / "include", package.parent / "csrc" / "include"]
    for folder in candidates:
        if (folder / "fastgrad" / "numerics.h").is_file():
            return str(folder)
    places = " nor ".join(map(str, candidates))
    raise FileNotFoundError(f"get_include: fastgrad/numerics.h is neither in {places}; install fastgrad again")
