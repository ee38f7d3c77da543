"""fastgrad on several ranks."""

from fastgrad.distributed.compressed import CompressedGradients, compress_gradients

__all__ = ["CompressedGradients", "compress_gradients"]
