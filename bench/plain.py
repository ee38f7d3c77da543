"""The work of every row in plain PyTorch, as a user without fastgrad writes it; eager or under torch.compile.

All functions take whole lists. Noise is ``torch.randint``; formats and scales are those of docs/numerics.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8
Lists = list[Tensor]
Rounded = tuple[Tensor, Tensor, Tensor]  # codes, scale, q_k


def std_mean(grads: Lists) -> list[tuple[Tensor, Tensor]]:
    return [torch.std_mean(g, correction=0) for g in grads]


def std_and_mean(grads: Lists) -> list[tuple[Tensor, Tensor]]:
    return [(g.std(correction=0), g.mean()) for g in grads]


def foreach_std_mean(grads: Lists) -> list[tuple[Tensor, Tensor]]:
    """sqrt(E[x^2] - mean^2): good enough only where the mean is not much larger than the std."""
    means = [g.mean() for g in grads]
    return [
        ((norm * norm / g.numel() - mean * mean).sqrt(), mean)
        for g, norm, mean in zip(grads, torch._foreach_norm(grads), means, strict=True)
    ]


def znorm_(grads: Lists) -> None:
    for g in grads:
        std, mean = torch.std_mean(g, correction=0)
        g.sub_(mean).div_(std + EPS)


def foreach_znorm_(grads: Lists) -> None:
    statistics = foreach_std_mean(grads)
    torch._foreach_sub_(grads, [mean for _, mean in statistics])
    torch._foreach_div_(grads, [std + EPS for std, _ in statistics])


def round_bf16(x: Tensor) -> Tensor:
    """16 random bits are added below the 16 that are kept."""
    noise = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32, device=x.device)
    return ((x.view(torch.int32) + noise) & -65536).view(torch.float32).to(torch.bfloat16)


def round_e4m3(v: Tensor) -> Tensor:
    """20 random bits below the 3 mantissa bits kept; adding 2^-6 to subnormals makes them normal."""
    noise = torch.randint(0, 1 << 20, v.shape, dtype=torch.int32, device=v.device)
    magnitude = v.abs()
    offset = torch.where(magnitude < 2.0**-6, 2.0**-6, 0.0)
    kept = ((magnitude + offset).view(torch.int32) + noise) & -(1 << 20)
    rounded = (kept.view(torch.float32) - offset).clamp(max=448.0)
    return torch.copysign(rounded, v).to(torch.float8_e4m3fn)


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


def quantize_e4m3(grads: Lists, scales: Lists | None = None) -> list[Rounded]:
    """Per tensor; with the scale of its absmax, or with scales that are given."""
    results = []
    for i, g in enumerate(grads):
        scale = current_scale(g, 448.0) if scales is None else scales[i]
        codes = round_e4m3(g * (1.0 / scale))
        results.append((codes, scale.reshape(1), q_k(g, codes.float() * scale)))
    return results


def quantize_int8(grads: Lists, block: int = 256) -> list[Rounded]:
    """One scale for ``block`` consecutive elements."""
    results = []
    for g in grads:
        n = g.numel()
        x = torch.nn.functional.pad(g.reshape(-1), (0, -n % block)).view(-1, block)
        absmax = x.abs().amax(1, keepdim=True)
        scale = torch.where(absmax == 0, 1.0, (absmax / 127.0).clamp(min=2.0**-126))
        codes = round_int8(x * (1.0 / scale))
        results.append((codes.view(-1)[:n].view(g.shape), scale.view(-1), q_k(x, codes.float() * scale)))
    return results


def momentum_(grads: Lists, params: Lists, momenta: Lists, lr: float, mu: float) -> None:
    for g, p, m in zip(grads, params, momenta, strict=True):
        m.mul_(mu).add_(g)
        p.add_(m, alpha=-lr)


def _update_(q: Tensor, p: Tensor, m: Tensor, lr: float, mu: float, decay: float) -> None:
    m.mul_(mu).add_(q.add_(p, alpha=decay))
    p.add_(m, alpha=-lr)


def chain_znorm_bf16_(
    grads: Lists, params: Lists, momenta: Lists, lr: float, mu: float, decay: float
) -> list[Tensor]:
    """ZNorm, stochastic rounding to bfloat16, q_k, weight decay, momentum, update; gives the q_k."""
    factors = []
    for g, p, m in zip(grads, params, momenta, strict=True):
        std, mean = torch.std_mean(g, correction=0)
        y = (g - mean) / (std + EPS)
        q = round_bf16(y).float()
        factors.append(q_k(y, q))
        _update_(q, p, m, lr, mu, decay)
    return factors


def chain_autoscale_e4m3_(
    grads: Lists, params: Lists, momenta: Lists, first: Tensor, lr: float, mu: float, decay: float
) -> list[Tensor]:
    """As above, scaled by sigma / first of the whole list, and fp8_e4m3 by the absmax of every tensor."""
    statistics = std_mean(grads)
    sizes = torch.tensor([g.numel() for g in grads], dtype=torch.float32, device=first.device)
    stds = torch.stack([std for std, _ in statistics])
    means = torch.stack([mean for _, mean in statistics])
    total = sizes.sum()
    mean_all = (sizes * means).sum() / total
    sigma = ((sizes * (stds * stds + (means - mean_all) ** 2)).sum() / total).sqrt()
    alpha = sigma / first
    factors = []
    for g, p, m, (_, mean) in zip(grads, params, momenta, statistics, strict=True):
        y = (g - mean) * alpha
        scale = current_scale(y, 448.0)
        q = round_e4m3(y * (1.0 / scale)).float() * scale
        factors.append(q_k(y, q))
        _update_(q, p, m, lr, mu, decay)
    return factors
