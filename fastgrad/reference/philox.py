"""Noise: Philox4x32 and the map from (seed, stream, element) to 16 bits. Section 2 of docs/numerics.md."""

import torch
from torch import Tensor

ROUNDS = 7
DEFAULT_SEED = 0x66617374_67726164  # "fastgrad" in ASCII
PURPOSES = {"gradient": 0, "weight": 1, "state": 2, "activation": 3, "communication": 4}

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_BUMP0, _BUMP1 = 0x9E3779B9, 0xBB67AE85
_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFF_FFFFFFFF
_PARAMETER_BITS, _STEP_BITS, _SLOT_BITS = 18, 31, 12
PARAMETER_RANGE, STEP_RANGE, SLOT_RANGE = 1 << _PARAMETER_BITS, 1 << _STEP_BITS, 1 << _SLOT_BITS


def signed64(seed: int) -> int:
    """A 64-bit seed as the signed integer that torch's schemas and tensors carry."""
    return (seed + 2**63) % 2**64 - 2**63


def _mul_hi_lo(multiplier: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of the 64-bit product of 32-bit words.

    The full product does not fit into a signed 64-bit integer, so `word` is multiplied as two halves.
    """
    low = multiplier * (word & 0xFFFF)
    high = multiplier * (word >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: int | Tensor, k1: int | Tensor, rounds: int = ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 of counters (c0, c1, c2, c3) and key (k0, k1), all int64 holding 32-bit words (section 2).

    One round: `(c0,c1,c2,c3) <- (hi(M1*c2)^c1^k0, lo(M1*c2), hi(M0*c0)^c3^k1, lo(M0*c0))`; the key is bumped
    between rounds.
    """
    for round_ in range(rounds):
        if round_ > 0:
            k0, k1 = (k0 + _BUMP0) & _MASK32, (k1 + _BUMP1) & _MASK32
        hi0, lo0 = _mul_hi_lo(_M0, c0)
        hi1, lo1 = _mul_hi_lo(_M1, c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
    return c0, c1, c2, c3


def noise16(seed: int, stream: int, n: int, first_tile: int = 0) -> Tensor:
    """The 16-bit noises (int32 [n]) of the first `n` elements from tile `first_tile` on (section 2).

    Column c of tile t has the counter `k = t*128 + c`; row r takes output word `r & 3` of it, the low half
    for r < 4 and the high half for r >= 4. `seed` and `stream` are 64 bits, signed or unsigned.
    """
    seed, stream = seed & _MASK64, stream & _MASK64
    tiles = (n + 1023) // 1024
    first = (first_tile * 128) & _MASK64
    # int64 addition wraps modulo 2^64, so an unsigned start beyond 2^63 goes in as its two's complement
    k = torch.arange(tiles * 128, dtype=torch.int64, device="cpu") + (first - (1 << 64) if first >> 63 else first)
    constant = torch.zeros_like(k)
    words = philox4x32(
        k & _MASK32,
        (k >> 32) & _MASK32,
        constant + (stream & _MASK32),
        constant + (stream >> 32),
        seed & _MASK32,
        seed >> 32,
    )
    columns = torch.stack([word.view(tiles, 128) for word in words], dim=1)  # [tile, word, column]
    rows = torch.cat([columns & 0xFFFF, columns >> 16], dim=1)  # [tile, row, column]
    return rows.to(torch.int32).reshape(-1)[:n]


def pack_stream(purpose: str | int, parameter: int, step: int, slot: int = 0) -> int:
    """`purpose << 61 | parameter << 43 | step << 12 | slot`, an unsigned 64-bit number (section 2)."""
    if isinstance(purpose, str):
        if purpose not in PURPOSES:
            raise ValueError(f"purpose must be one of {', '.join(PURPOSES)}, got {purpose!r}")
        purpose = PURPOSES[purpose]
    limits = {
        "purpose": (purpose, len(PURPOSES)),
        "parameter": (parameter, 1 << _PARAMETER_BITS),
        "step": (step, 1 << _STEP_BITS),
        "slot": (slot, 1 << _SLOT_BITS),
    }
    for name, (value, limit) in limits.items():
        if not 0 <= value < limit:
            raise ValueError(f"{name} must be in [0, {limit - 1}], got {value}")
    return purpose << 61 | parameter << 43 | step << 12 | slot
