"""The rows of the benchmark: fastgrad, plain PyTorch, torch.compile, other libraries and floors side by side."""

from bench.rows.activations import activation_rows
from bench.rows.adamw import adamw_row
from bench.rows.chain import chain_rows
from bench.rows.moments import moments_row
from bench.rows.normalize import normalize_rows
from bench.rows.quantize import quantize_rows
from bench.rows.row import KINDS, PROBE, Contestant, Row
from bench.rows.step import momentum_row

__all__ = ["KINDS", "PROBE", "ROWS", "Contestant", "Row"]

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        moments_row(),
        *normalize_rows(),
        *quantize_rows(),
        momentum_row(),
        *chain_rows(),
        adamw_row(),
        *activation_rows(),
    )
}
