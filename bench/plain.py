"""The work of every row in plain PyTorch, as a user without fastgrad writes it; eager or under torch.compile.

All functions take whole lists, of float32 or bfloat16 gradients; what is summed is float32. Noise is
``torch.randint``; formats and scales are those of docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-8
LARGEST = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}
Lists = list[Tensor]
Rounded = tuple[Tensor, Tensor, Tensor]  # codes, scale, q_k


def std_mean(grads: Lists) -> list[tuple[Tensor, Tensor]]:
    return [torch.std_mean(g.float(), correction=0) for g in grads]


def std_and_mean(grads: Lists) -> list[tuple[Tensor, Tensor]]:
    return [(x.std(correction=0), x.mean()) for x in (g.float() for g in grads)]


def foreach_norm(grads: Lists) -> list[Tensor]:
    return list(torch._foreach_norm(grads, 2, torch.float32))


def foreach_std_mean(grads: Lists) -> list[tuple[Tensor, Tensor]]:
    """sqrt(E[x^2] - mean^2): good enough only where the mean is not much larger than the std."""
    means = [g.mean(dtype=torch.float32) for g in grads]
    return [
        ((norm * norm / g.numel() - mean * mean).sqrt(), mean)
        for g, norm, mean in zip(grads, foreach_norm(grads), means, strict=True)
    ]


def znorm_(grads: Lists) -> None:
    for g in grads:
        std, mean = torch.std_mean(g.float(), correction=0)
        g.sub_(mean).div_(std + EPS)


def foreach_znorm_(grads: Lists) -> None:
    statistics = foreach_std_mean(grads)
    torch._foreach_sub_(grads, [mean for _, mean in statistics])
    torch._foreach_div_(grads, [std + EPS for std, _ in statistics])


def centralize_(grads: Lists) -> None:
    """Gradient Centralization: the mean of every dim-0 row is subtracted; vectors have none."""
    for g in grads:
        if g.dim() > 1:
            g.sub_(g.mean(tuple(range(1, g.dim())), keepdim=True))


def _sigma(grads: Lists, statistics: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Std of the whole list."""
    sizes = torch.tensor([g.numel() for g in grads], dtype=torch.float32, device=grads[0].device)
    stds = torch.stack([std for std, _ in statistics])
    means = torch.stack([mean for _, mean in statistics])
    total = sizes.sum()
    mean = (sizes * means).sum() / total
    return ((sizes * (stds * stds + (means - mean) ** 2)).sum() / total).sqrt()


def autoscale_log_(grads: Lists) -> None:
    """All gradients times -log(sigma of the list), without their means."""
    statistics = std_mean(grads)
    alpha = -_sigma(grads, statistics).log()
    for g, (_, mean) in zip(grads, statistics, strict=True):
        g.sub_(mean).mul_(alpha)


def foreach_autoscale_log_(grads: Lists) -> None:
    statistics = foreach_std_mean(grads)
    torch._foreach_sub_(grads, [mean for _, mean in statistics])
    torch._foreach_mul_(grads, -_sigma(grads, statistics).log())


def clip_(grads: Lists, max_norm: float) -> None:
    norm = torch.stack([g.float().square().sum() for g in grads]).sum().sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(factor)


def round_bf16(x: Tensor) -> Tensor:
    """16 random bits are added below the 16 that are kept."""
    noise = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32, device=x.device)
    return ((x.view(torch.int32) + noise) & -65536).view(torch.float32).to(torch.bfloat16)


def round_float(v: Tensor, mantissa: int, lowest: int, largest: float) -> Tensor:
    """Random bits below the mantissa bits kept; adding the smallest normal 2^lowest makes subnormals normal."""
    bits = 23 - mantissa
    noise = torch.randint(0, 1 << bits, v.shape, dtype=torch.int32, device=v.device)
    magnitude = v.abs()
    offset = torch.where(magnitude < 2.0**lowest, 2.0**lowest, 0.0)
    kept = ((magnitude + offset).view(torch.int32) + noise) & -(1 << bits)
    return torch.copysign((kept.view(torch.float32) - offset).clamp(max=largest), v)


def round_fp8(v: Tensor, format: str) -> Tensor:
    if format == "fp8_e4m3":
        return round_float(v, 3, -6, 448.0).to(torch.float8_e4m3fn)
    return round_float(v, 2, -14, 57344.0).to(torch.float8_e5m2)


def round_fp4(v: Tensor) -> Tensor:
    """Codes of 4 bits: a sign and the place among 0, 0.5, 1, 1.5, 2, 3, 4, 6."""
    rounded = round_float(v, 1, 0, 6.0)
    size = rounded.abs()
    place = torch.where(size < 2, size * 2, torch.where(size < 4, size + 2, size / 2 + 4)).to(torch.uint8)
    return place | (torch.signbit(v).to(torch.uint8) << 3)


def values_of_fp4(nibbles: Tensor) -> Tensor:
    magnitudes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], device=nibbles.device)
    size = magnitudes[(nibbles & 7).long()]
    return torch.where(nibbles >= 8, -size, size)


def round_int8(v: Tensor) -> Tensor:
    noise = torch.randint(0, 1 << 16, v.shape, dtype=torch.int32, device=v.device)
    return torch.floor(v + noise * 2.0**-16).clamp(-127, 127).to(torch.int8)


def q_k(x: Tensor, q: Tensor) -> Tensor:
    flat = x.reshape(-1)
    return torch.dot(flat, q.reshape(-1)) / torch.dot(flat, flat)


def current_scale(x: Tensor, largest: float) -> Tensor:
    return (x.abs().amax() / largest).clamp(min=2.0**-126)


def quantize_bf16(grads: Lists) -> list[Rounded]:
    results = []
    for g in grads:
        codes = round_bf16(g)
        results.append((codes, torch.ones(1, device=g.device), q_k(g, codes.float())))
    return results


def quantize_fp8(grads: Lists, format: str, scales: Lists | None = None) -> list[Rounded]:
    """Per tensor; with the scale of its absmax, or with scales that are given."""
    results = []
    for i, g in enumerate(grads):
        x = g.float()
        scale = current_scale(x, LARGEST[format]) if scales is None else scales[i]
        codes = round_fp8(x * (1.0 / scale), format)
        results.append((codes, scale.reshape(1), q_k(x, codes.float() * scale)))
    return results


def blocks(g: Tensor, block: int) -> Tensor:
    """float32 [blocks, block]; the last is filled with zeros."""
    return torch.nn.functional.pad(g.reshape(-1).float(), (0, -g.numel() % block)).view(-1, block)


def int8_codes(g: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, codes [blocks, block] and scales [blocks, 1]."""
    x = blocks(g, block)
    absmax = x.abs().amax(1, keepdim=True)
    scale = torch.where(absmax == 0, 1.0, (absmax / 127.0).clamp(min=2.0**-126))
    return x, round_int8(x * (1.0 / scale)), scale


def quantize_int8(grads: Lists, block: int = 256) -> list[Rounded]:
    """One scale for ``block`` consecutive elements."""
    results = []
    for g in grads:
        x, codes, scale = int8_codes(g, block)
        results.append((codes.view(-1)[: g.numel()].view(g.shape), scale.view(-1), q_k(x, codes.float() * scale)))
    return results


def quantize_fp4(grads: Lists, block: int = 32) -> list[Rounded]:
    """A power of two for ``block`` consecutive elements, two codes to a byte, the lower nibble first."""
    results = []
    for g in grads:
        x = blocks(g, block)
        absmax = x.abs().amax(1, keepdim=True)
        mantissa, exponent = torch.frexp(absmax / 6.0)  # log2 would round numbers just above a power of two
        exponent = (exponent - (mantissa == 0.5).int()).clamp(-126, 127)
        scale = torch.where(absmax == 0, 1.0, torch.exp2(exponent.float()))
        codes = round_fp4(x * (1.0 / scale))
        factor = q_k(x, values_of_fp4(codes) * scale)
        flat = codes.view(-1)[: g.numel() + g.numel() % 2]
        results.append((flat[0::2] | (flat[1::2] << 4), scale.view(-1), factor))
    return results


Packed = tuple[Tensor, Tensor, torch.Size, torch.dtype]  # codes and scales of blocks, shape and dtype of the tensor


def pack_int8(t: Tensor, block: int = 128) -> Packed:
    """A saved tensor, as :func:`fastgrad.compress_saved_tensors` stores it."""
    _, codes, scale = int8_codes(t.reshape(-1), block)
    return codes, scale, t.shape, t.dtype


def decode_int8(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (codes.float() * scale).to(dtype)


def unpack_int8(packed: Packed) -> Tensor:
    codes, scale, shape, dtype = packed
    return decode_int8(codes, scale, dtype).view(-1)[: shape.numel()].view(shape)


def momentum_(grads: Lists, params: Lists, momenta: Lists, lr: float, mu: float) -> None:
    for g, p, m in zip(grads, params, momenta, strict=True):
        m.mul_(mu).add_(g)
        p.add_(m, alpha=-lr)


def _update_(q: Tensor, p: Tensor, m: Tensor, lr: float, mu: float, decay: float) -> None:
    m.mul_(mu).add_(q.add_(p, alpha=decay))
    p.add_(m, alpha=-lr)


def chain_znorm_bf16_(
    grads: Lists, params: Lists, momenta: Lists, lr: float, mu: float, decay: float,
    rounding: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """ZNorm, stochastic rounding to bfloat16, q_k, weight decay, momentum, update; gives the q_k."""
    factors = []
    for g, p, m in zip(grads, params, momenta, strict=True):
        x = g.float()
        std, mean = torch.std_mean(x, correction=0)
        y = (x - mean) / (std + EPS)
        q = (rounding or round_bf16)(y).float()
        factors.append(q_k(y, q))
        _update_(q, p, m, lr, mu, decay)
    return factors


def chain_autoscale_e4m3_(
    grads: Lists, params: Lists, momenta: Lists, first: Tensor, lr: float, mu: float, decay: float
) -> list[Tensor]:
    """As above, scaled by sigma / first of the whole list, and fp8_e4m3 by the absmax of every tensor."""
    statistics = std_mean(grads)
    alpha = _sigma(grads, statistics) / first
    factors = []
    for g, p, m, (_, mean) in zip(grads, params, momenta, statistics, strict=True):
        y = (g.float() - mean) * alpha
        scale = current_scale(y, 448.0)
        q = round_fp8(y * (1.0 / scale), "fp8_e4m3").float() * scale
        factors.append(q_k(y, q))
        _update_(q, p, m, lr, mu, decay)
    return factors
