"""One step of SGD. Section 9 of docs/numerics.md."""

import triton
import triton.language as tl

from . import formats
from .bits import canonical
from .jobs import FIRST, FLAGS, MOMENTUM, MOMENTUM_TYPE, PARAM, PARAM_TYPE
from .measure import bytes_of
from .memory import as_stored, load_values, store_values
from .philox import WEIGHT, pack_stream, tile_noise
from .rounding import NEAREST, STOCHASTIC

ABSENT = tl.constexpr(-2)  # as a type: there are no such tensors


@triton.jit
def new_momentum(address, type, at, count, full, d, mu, dampening, is_first, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """m = d, later mu * m + (1 - dampening) * d; stored, and given as it is stored."""
    m = d
    if is_first == 0:
        m = mu * load_values(address, type, at, count, full, TYPE, ALIGNED).to(tl.float64) + (1.0 - dampening) * d
    m32 = canonical(m.to(tl.float32))
    store_values(address, type, at, m32, 0, count, full, TYPE, NEAREST, ALIGNED)
    return as_stored(m32, type, TYPE).to(tl.float64)


@triton.jit
def sgd(
    q,  # float32 [TILES, 8, 128], the treated gradient
    job,
    hyper,  # float64 [8]: lr, momentum, dampening, weight_decay, nesterov, decoupled, maximize, 0
    factor,  # the compensation factor k
    seed,
    stream_parts,  # of the weight noise: id, step, slot
    tile,  # of the noise
    first,
    at,
    count,
    full,
    PARAMS: tl.constexpr,
    MOMENTA: tl.constexpr,
    ROUNDING: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """All of it in float64 from float32 values; each store rounds once."""
    TILES: tl.constexpr = q.shape[0]
    lr, mu, dampening, decay = tl.load(hyper), tl.load(hyper + 1), tl.load(hyper + 2), tl.load(hyper + 3)
    nesterov, decoupled, maximize = tl.load(hyper + 4), tl.load(hyper + 5), tl.load(hyper + 6)
    type = tl.load(job + PARAM_TYPE)
    address = tl.load(job + PARAM) + first * bytes_of(type, PARAMS)
    p = load_values(address, type, at, count, full, PARAMS, ALIGNED).to(tl.float64)

    d = q.to(tl.float64)
    if maximize != 0.0:
        d = d * -1.0
    if (decay != 0.0) & (decoupled == 0.0):
        d = d + decay * p
    u = d
    if MOMENTA != ABSENT:
        if mu != 0.0:
            m_type = tl.load(job + MOMENTUM_TYPE)
            m_address = tl.load(job + MOMENTUM) + first * bytes_of(m_type, MOMENTA)
            is_first = tl.load(job + FLAGS) & FIRST
            m = new_momentum(m_address, m_type, at, count, full, d, mu, dampening, is_first, MOMENTA, ALIGNED)
            if nesterov != 0.0:
                u = d + mu * m
            else:
                u = m
    if (decay != 0.0) & (decoupled != 0.0):
        p = p * (1.0 - lr * decay)
    p = p - (lr * factor) * u

    noise = 0
    if PARAMS != formats.FP32 and ROUNDING == STOCHASTIC:
        id, step, slot = stream_parts
        noise = tile_noise(seed, pack_stream(tl.full((), WEIGHT, tl.int64), id, step, slot), tile, TILES)
    store_values(address, type, at, p.to(tl.float32), noise, count, full, PARAMS, ROUNDING, ALIGNED)
