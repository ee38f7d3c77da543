"""Tile sums, halving trees, moments and shrinkage sums. Sections 1, 6 and 8 of docs/numerics.md.

Moments are float64 `(n, mean, M2, min, max, nonfinite)` in the last dimension, as in the table's columns.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .formats import exp2_f32, exp2_f64
from .scales import finite_magnitude

TILE, ROWS, COLUMNS, CHUNK_TILES = 1024, 8, 128, 64
# Elements worked on at once where a tensor is split into rows: bounds memory, changes no bit
_GROUP = 1 << 22

Merge = Callable[[Tensor, Tensor], Tensor]


def as_tiles(x: Tensor) -> Tensor:
    """[..., n] as [..., tiles, 8, 128], a short last tile padded with +0 (section 1)."""
    n = x.shape[-1]
    tiles = (n + TILE - 1) // TILE
    padded = torch.cat([x, x.new_zeros(*x.shape[:-1], tiles * TILE - n)], dim=-1)
    return padded.view(*x.shape[:-1], tiles, ROWS, COLUMNS)


def tile_sum(terms: Tensor) -> Tensor:
    """Sum of [..., 8, 128] float32 terms: columns take their rows in order, then are halved (section 1)."""
    columns = torch.zeros_like(terms[..., 0, :])
    for row in range(ROWS):
        columns = columns + terms[..., row, :]
    s = COLUMNS // 2
    while s >= 1:
        columns = columns[..., :s] + columns[..., s:]
        s //= 2
    return columns[..., 0]


def add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def tree(leaves: Tensor, merge: Merge, empty: Tensor) -> Tensor:
    """Halving tree over leaves [..., k, values] to [..., values]; `empty` where k = 0 (section 1)."""
    k = leaves.shape[-2]
    if k == 0:
        return empty.expand(*leaves.shape[:-2], leaves.shape[-1]).clone()
    s = 1 << (k - 1).bit_length()  # the smallest power of two >= k
    while s > 1:
        s //= 2
        k = leaves.shape[-2]
        if k > s:
            merged = merge(leaves[..., : k - s, :], leaves[..., s:, :])
            leaves = torch.cat([merged, leaves[..., k - s : s, :]], dim=-2)
    return leaves[..., 0, :]


def tiles_to_tensor(leaves: Tensor, merge: Merge, empty: Tensor) -> Tensor:
    """Merge tiles [..., tiles, values] within chunks of 64 tiles, then the chunks (section 1).

    The last chunk is filled up with empty leaves, which change nothing in either kind of merge.
    """
    *lead, tiles, values = leaves.shape
    chunks = (tiles + CHUNK_TILES - 1) // CHUNK_TILES
    fill = empty.expand(*lead, chunks * CHUNK_TILES - tiles, values)
    chunked = torch.cat([leaves, fill], dim=-2).view(*lead, chunks, CHUNK_TILES, values)
    return tree(tree(chunked, merge, empty), merge, empty)


def empty_moments() -> Tensor:
    """The moments of nothing."""
    return torch.tensor([0.0, 0.0, 0.0, torch.inf, -torch.inf, 0.0], dtype=torch.float64, device="cpu")


def merge(a: Tensor, b: Tensor) -> Tensor:
    """Moments of the union of a and b (section 6):

    `n = na + nb; delta = mean_b - mean_a; mean = mean_a + delta * (nb / n);
    M2 = (M2a + M2b) + (delta * delta) * (na * nb / n)`; where either is empty, mean and M2 of the other.
    """
    na, mean_a, m2_a, min_a, max_a, bad_a = a.unbind(-1)
    nb, mean_b, m2_b, min_b, max_b, bad_b = b.unbind(-1)
    n = na + nb
    divisor = torch.where(n == 0, torch.ones_like(n), n)
    delta = mean_b - mean_a
    mean = mean_a + delta * (nb / divisor)
    m2 = (m2_a + m2_b) + (delta * delta) * (na * nb / divisor)
    mean = torch.where(nb == 0, mean_a, torch.where(na == 0, mean_b, mean))
    m2 = torch.where(nb == 0, m2_a, torch.where(na == 0, m2_b, m2))
    low, high = torch.minimum(min_a, min_b), torch.maximum(max_a, max_b)
    return torch.stack([n, mean, m2, low, high, bad_a + bad_b], dim=-1)


def tile_exponent(absmax: Tensor) -> Tensor:
    """The e (int32) of a tile scaled by 2^-e: 0 where its largest magnitude is 0 or in [2^-40, 2^50]."""
    exponent = ((absmax.contiguous().view(torch.int32) >> 23) - 127).clamp(-126, 126)
    plain = (absmax == 0) | ((absmax >= 2.0**-40) & (absmax <= 2.0**50))
    return torch.where(plain, torch.zeros_like(exponent), exponent)


def _tile_moments(x: Tensor) -> Tensor:
    """Moments of every tile of [..., n] as [..., tiles, 6] (section 6)."""
    tiles = as_tiles(x)
    # a padding element is neither finite nor non-finite: `valid` is 0 for it
    valid = as_tiles(torch.ones_like(x, dtype=torch.bool))
    finite = torch.isfinite(tiles) & valid
    count = finite.sum(dim=(-2, -1), dtype=torch.int64)
    bad = (valid & ~finite).sum(dim=(-2, -1), dtype=torch.int64)
    zero = torch.zeros_like(tiles)

    clean = torch.where(finite, tiles, zero)
    e = tile_exponent(clean.abs().amax(dim=(-2, -1)))
    # 2^0 leaves every bit of an unscaled tile as it is
    scaled = clean * exp2_f32(-e)[..., None, None]
    n32 = count.clamp(min=1).to(torch.float32)
    mean32 = tile_sum(scaled) / n32
    d = torch.where(finite, scaled - mean32[..., None, None], zero)
    s1, s2 = tile_sum(d).to(torch.float64), tile_sum(d * d).to(torch.float64)

    n = count.to(torch.float64)
    n64 = n32.to(torch.float64)
    mean = (mean32.to(torch.float64) + s1 / n64) * exp2_f64(e)
    m2 = (s2 - s1 * s1 / n64).clamp(min=0.0) * exp2_f64(2 * e)
    low = torch.where(finite, tiles, torch.inf).amin(dim=(-2, -1)).to(torch.float64) + 0.0
    high = torch.where(finite, tiles, -torch.inf).amax(dim=(-2, -1)).to(torch.float64) + 0.0
    none = count == 0
    mean, m2 = torch.where(none, 0.0, mean), torch.where(none, 0.0, m2)
    return torch.stack([n, mean, m2, low, high, bad.to(torch.float64)], dim=-1)


def row_moments(x: Tensor, rows: int) -> Tensor:
    """Moments [rows, 6] of `rows` equal parts of a flat float32 tensor, each a tile grid of its own."""
    empty = empty_moments()
    length = x.numel() // rows if rows else 0
    if length == 0:
        return empty.repeat(rows, 1)
    padded = (length + TILE - 1) // TILE * TILE
    groups = x.view(rows, length).split(max(1, _GROUP // padded))
    return torch.cat([tiles_to_tensor(_tile_moments(group), merge, empty) for group in groups])


def moments(x: Tensor) -> Tensor:
    """Moments of a flat float32 tensor: float64 `(n, mean, M2, min, max, nonfinite)` (section 6)."""
    return row_moments(x, 1)[0]


def merge_all(many: Tensor) -> Tensor:
    """Halving tree over moments [k, 6]: the rows of a tensor, or the tensors of a list (section 1)."""
    return tree(many, merge, empty_moments())


def shrinkage_sums(y: Tensor, q: Tensor) -> Tensor:
    """float64 `(sum y*y, sum y*q, sum q*q)` over the finite y of a flat float32 tensor (section 8)."""
    none = torch.zeros(3, dtype=torch.float64, device="cpu")
    if y.numel() == 0:
        return none
    finite = torch.isfinite(y)
    ty = as_tiles(torch.where(finite, y, torch.zeros_like(y)))
    tq = as_tiles(torch.where(finite, q, torch.zeros_like(q)))
    ey = tile_exponent(finite_magnitude(ty).amax(dim=(-2, -1)))
    eq = tile_exponent(finite_magnitude(tq).amax(dim=(-2, -1)))
    ys = ty * exp2_f32(-ey)[..., None, None]
    qs = tq * exp2_f32(-eq)[..., None, None]
    sums = [
        tile_sum(ys * ys).to(torch.float64) * exp2_f64(2 * ey),
        tile_sum(ys * qs).to(torch.float64) * exp2_f64(ey + eq),
        tile_sum(qs * qs).to(torch.float64) * exp2_f64(2 * eq),
    ]
    return tiles_to_tensor(torch.stack(sums, dim=-1), add, none)
