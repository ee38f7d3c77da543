"""Section 2 of docs/numerics.md: Philox, the noise map and streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgrad.reference.philox import DEFAULT_SEED, PURPOSES, noise16, pack_stream, philox4x32

MASK32 = 0xFFFFFFFF
PI = ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))

# Random123's kat_vectors for 7 and 10 rounds: counter and key of zeros, of ones, and of digits of pi
KNOWN = [
    (7, (0,) * 4, (0,) * 2, "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, (MASK32,) * 4, (MASK32,) * 2, "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, *PI, "4dfccaba 190a87f0 c47362ba b6b5242a"),
    (10, (0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, (MASK32,) * 4, (MASK32,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, *PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def philox_scalar(counter: tuple[int, ...], key: tuple[int, ...], rounds: int) -> tuple[int, ...]:
    """The round of section 2 on python integers, which do not overflow."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def noise_scalar(seed: int, stream: int, tile: int, row: int, column: int) -> int:
    k = tile * 128 + column
    counter = (k & MASK32, (k >> 32) & MASK32, stream & MASK32, (stream >> 32) & MASK32)
    word = philox_scalar(counter, (seed & MASK32, (seed >> 32) & MASK32), 7)[row & 3]
    return word & 0xFFFF if row < 4 else word >> 16


@pytest.mark.parametrize("rounds, counter, key, answer", KNOWN)
def test_known_answers(rounds, counter, key, answer):
    words = philox4x32(*(torch.tensor([c]) for c in counter), *key, rounds=rounds)
    assert " ".join(f"{w.item():08x}" for w in words) == answer
    assert " ".join(f"{w:08x}" for w in philox_scalar(counter, key, rounds)) == answer


word32 = st.integers(0, MASK32)


@settings(max_examples=50, deadline=None)
@given(st.tuples(word32, word32, word32, word32), st.tuples(word32, word32), st.sampled_from([1, 7, 10]))
def test_agrees_with_integers(counter, key, rounds):
    words = philox4x32(*(torch.tensor([c]) for c in counter), *key, rounds=rounds)
    assert tuple(w.item() for w in words) == philox_scalar(counter, key, rounds)


@pytest.mark.parametrize("first_tile", [0, 5, (1 << 25) - 1, 1 << 25, 1 << 40, (1 << 56) - 1])
@pytest.mark.parametrize("seed, stream", [(0, 0), (DEFAULT_SEED, 3 << 61 | 12345), (-1, 1 << 63)])
def test_noise_map(seed, stream, first_tile):
    """Every place of a tile, with the carry of the counter into its high word (tile 2^25) within reach."""
    noise = noise16(seed, stream, 2048, first_tile)
    assert noise.dtype == torch.int32 and noise.shape == (2048,)
    for i in range(0, 2048, 37):
        expected = noise_scalar(seed, stream, first_tile + (i >> 10), (i >> 7) & 7, i & 127)
        assert noise[i].item() == expected


def test_noise_depends_on_the_index_alone():
    whole = noise16(1, 2, 10_000)
    for n in (0, 1, 127, 128, 1023, 1024, 1025, 9_999):
        assert torch.equal(noise16(1, 2, n), whole[:n])
    assert torch.equal(noise16(1, 2, 10_000 - 3 * 1024, first_tile=3), whole[3 * 1024 :])
    assert not torch.equal(noise16(1, 3, 10_000), whole)
    assert not torch.equal(noise16(2, 2, 10_000), whole)


def test_signed_and_unsigned_seeds_are_one():
    for value in (-1, -(1 << 63), -12345):
        assert torch.equal(noise16(value, 7, 1024), noise16(value + (1 << 64), 7, 1024))
        assert torch.equal(noise16(7, value, 1024), noise16(7, value + (1 << 64), 1024))


def test_noise_is_uniform():
    n = 1 << 20
    noise = noise16(DEFAULT_SEED, pack_stream("gradient", 1, 2), n)
    assert noise.min() >= 0 and noise.max() <= 0xFFFF
    counts = torch.bincount((noise >> 8).long(), minlength=256).double()
    chi2 = ((counts - n / 256) ** 2 / (n / 256)).sum().item()
    assert 150 < chi2 < 400  # 255 degrees of freedom, standard deviation 22.6
    neighbours = torch.corrcoef(torch.stack([noise[:-128], noise[128:]]).double())[0, 1]
    assert abs(neighbours) < 5e-3


def test_pack_stream():
    assert pack_stream("gradient", 0, 0) == 0
    assert pack_stream("communication", 3, 5, 7) == 4 << 61 | 3 << 43 | 5 << 12 | 7
    assert pack_stream("weight", (1 << 18) - 1, (1 << 31) - 1, (1 << 12) - 1) == (2 << 61) - 1
    assert all(pack_stream(name, 1, 2, 3) == pack_stream(code, 1, 2, 3) for name, code in PURPOSES.items())


@pytest.mark.parametrize(
    "arguments, name",
    [
        (("gradient", 1 << 18, 0, 0), "parameter"),
        (("gradient", -1, 0, 0), "parameter"),
        (("gradient", 0, 1 << 31, 0), "step"),
        (("gradient", 0, 0, 1 << 12), "slot"),
        (("gradient", 0, 0, -1), "slot"),
        ((5, 0, 0, 0), "purpose"),
        (("dropout", 0, 0, 0), "purpose"),
    ],
)
def test_pack_stream_refuses(arguments, name):
    with pytest.raises(ValueError, match=name):
        pack_stream(*arguments)
