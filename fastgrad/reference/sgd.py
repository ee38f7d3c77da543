"""One step of SGD. Section 9 of docs/numerics.md."""

from dataclasses import dataclass

from torch import Tensor

from .formats import store_float


@dataclass(frozen=True)
class Hyper:
    """One parameter group, float64 on the host; the columns of `hyper` in order."""

    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    decoupled: bool
    maximize: bool

    @staticmethod
    def from_row(row: Tensor) -> "Hyper":
        lr, momentum, dampening, weight_decay, nesterov, decoupled, maximize, _ = row.tolist()
        return Hyper(lr, momentum, dampening, weight_decay, bool(nesterov), bool(decoupled), bool(maximize))


def sgd(
    q: Tensor,
    param: Tensor,
    momentum: Tensor | None,
    hyper: Hyper,
    *,
    factor: float = 1.0,
    first: bool = False,
    rounding: str = "nearest",
    noise: Tensor | None = None,
) -> None:
    """Update `param` and `momentum` in place from the treated gradient q (float32), all flat (section 9).

        d = -q if maximize else q
        d = d + wd * p                        coupled weight decay
        m = d, later mu * m + (1 - dampening) * d
        u = d + mu * m (nesterov), m, or d (mu = 0)
        p = p * (1 - lr*wd)                   decoupled weight decay
        p = p - (lr * k) * u                  k: `factor`

    All of it in float64 from float32 inputs; each store rounds once. `rounding` and `noise` are those of a
    bf16/fp16 parameter; momentum is rounded to nearest even, and used as stored.
    """
    p = param.double()
    decays = hyper.weight_decay != 0.0
    d = -q.double() if hyper.maximize else q.double()
    if decays and not hyper.decoupled:
        d = d + hyper.weight_decay * p
    u = d
    if hyper.momentum != 0.0:
        assert momentum is not None, "momentum needs a buffer"
        m = d if first else hyper.momentum * momentum.double() + (1.0 - hyper.dampening) * d
        momentum.copy_(store_float(m.float(), momentum.dtype))
        u = d + hyper.momentum * momentum.double() if hyper.nesterov else momentum.double()
    if decays and hyper.decoupled:
        p = p * (1.0 - hyper.lr * hyper.weight_decay)
    p = p - (hyper.lr * factor) * u
    param.copy_(store_float(p.float(), param.dtype, rounding, noise))
