"""Peak resident memory of linear_cross_entropy and of compressed activations, each in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench.peak import peak_bytes  # noqa: E402


def test_linear_cross_entropy():
    """Naive holds the float32 logits and their gradient; here the limit of the work space and the gradients are all."""
    tokens, words, features, chunk = 1024, 32_768, 64, 16 << 20
    setup = f"""
import fastgrad, torch.nn.functional as F
hidden = torch.randn({tokens}, {features}, requires_grad=True)
weight = torch.randn({words}, {features}, requires_grad=True)
targets = torch.randint(0, {words}, ({tokens},))
fastgrad.linear_cross_entropy(hidden[:9], weight[:99], targets[:9] % 99).backward()  # what first calls load
hidden.grad = weight.grad = None"""
    ours = peak_bytes(
        setup, f"lambda: fastgrad.linear_cross_entropy(hidden, weight, targets, chunk_bytes={chunk}).backward()"
    )
    plain = peak_bytes(setup, "lambda: F.cross_entropy(hidden @ weight.t(), targets).backward()")
    gradient = 4 * words * features
    bound = chunk + gradient + 3 * 4 * tokens * features + (8 << 20)  # and what the matrix library packs
    assert ours < bound, (ours, bound)
    assert plain > 2 * 4 * tokens * words > 2 * bound, plain
    assert ours > gradient  # it is measured


def test_compressed_activations():
    """Eight linear layers that keep 16 MiB each: int4 keeps 17/128 of it; two or three are alive at once."""
    layers, rows, width = 8, 65_536, 64
    setup = f"""
import fastgrad
model = torch.nn.Sequential(*(torch.nn.Linear({width}, {width}, bias=False) for _ in range({layers})))
x = torch.randn({rows}, {width})
with fastgrad.compress_saved_tensors("int4"):
    model(x[:64]).sum().backward()
model.zero_grad()
def run(context):
    with context:
        loss = model(x).sum()
    loss.backward()"""
    kept = 4 * rows * width
    exact = peak_bytes(setup, "lambda: run(torch.enable_grad())")
    ours = peak_bytes(setup, "lambda: run(fastgrad.compress_saved_tensors('int4'))")
    assert exact > (layers - 1) * kept
    # The input, of which codes are made although it stays; an activation, the next one, its gradients.
    assert ours < layers * kept * 17 / 128 + 3.5 * kept + (8 << 20) < exact, (ours, exact)
