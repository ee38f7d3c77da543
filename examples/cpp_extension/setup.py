"""An extension of one's own on fastgrad's headers: `pip install --no-build-isolation ./examples/cpp_extension`.

    e = torch.zeros(1000, dtype=torch.bfloat16)
    stream = fastgrad_ema.pack_stream(1, 0, step, 0)
    fastgrad_ema.ema_(e.view(torch.uint16).numpy(), weights.numpy(), 1e-3, seed, stream)
"""

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

import fastgrad

setup(
    name="fastgrad-ema",
    version="0.1.0",
    ext_modules=[
        Pybind11Extension(
            "fastgrad_ema",
            ["ema.cpp"],
            cxx_std=20,
            include_dirs=[fastgrad.get_include()],
            extra_compile_args=["-O2", "-ffp-contract=off"],  # part of the numeric contract
        )
    ],
)
