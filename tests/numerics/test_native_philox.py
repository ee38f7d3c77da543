"""Known answers of the C++ Philox (Random123's, for key and counter zero), and its noise map against the reference."""

import pytest
import torch

from fastgrad import library
from fastgrad.reference.philox import noise16, philox4x32

needs_native = pytest.mark.skipif(library.native is None, reason=f"native module {library.native_state}")


@needs_native
def test_known_answers():
    assert library.native.philox7(0, 0, 0, 0, 0) == (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)
    assert library.native.philox10(0, 0, 0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)


@needs_native
@pytest.mark.parametrize("rounds", [7, 10])
def test_any_counter_and_key(rounds):
    c = [0x12345678, 0x9ABCDEF0, 0xFFFFFFFF, 7]
    seed = 0xDEADBEEF_CAFEF00D
    words = philox4x32(*(torch.tensor(w) for w in c), seed & 0xFFFFFFFF, seed >> 32, rounds)
    assert getattr(library.native, f"philox{rounds}")(*c, seed) == tuple(int(w) for w in words)


@needs_native
@pytest.mark.parametrize("tile", [0, 1, 2**25, 2**40 + 3])
def test_noise_of_a_tile_on_every_instruction_set(tile):
    seed, stream = 2**63 + 11, 2**62 + 12345
    expected = noise16(seed, stream, 1024, first_tile=tile)
    for name in library.native.instruction_sets():
        got = torch.full((1024,), -1, dtype=torch.int16)
        library.native.noise(seed, stream, tile, got.data_ptr(), name)
        assert torch.equal(got.to(torch.int32) & 0xFFFF, expected)
