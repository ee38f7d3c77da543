"""Int8 weights leave through dense_state_dict and torch.save; what cannot hold them says so."""

from __future__ import annotations

import pytest
import torch
from contract_bits import assert_same_bits
from torch import nn

import fastgrad
from fastgrad.weights import Int8Weight, dense_state_dict


class Tied(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(64, 32)
        self.inner = nn.Linear(32, 32)
        self.out = nn.Linear(32, 64, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(self.inner(self.embedding(tokens)))


def payloads(model: Tied) -> list[torch.Tensor]:
    return [t for module in (model.embedding, model.inner) for t in (module.weight.codes, module.weight.scales)]


def test_the_dense_state_is_that_of_the_model_before():
    """Plain tensors, tied where the weights are; a model of plain weights computes the same with them."""
    model, plain = Tied(), Tied(seed=1)
    fastgrad.quantize_weights_(model)
    state = dense_state_dict(model)
    assert not any(isinstance(value, Int8Weight) for value in state.values())
    assert state["out.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    assert_same_bits([state["inner.weight"]], [model.inner.weight.dense()], "dense")
    assert isinstance(model.state_dict()["inner.weight"], Int8Weight)  # the model stays as it is
    plain.load_state_dict(state)
    tokens = torch.arange(64)
    assert_same_bits([plain(tokens)], [model(tokens)], "output")


def test_a_dense_state_is_rounded_into_quantized_weights():
    model, other = Tied(), Tied(seed=1)
    fastgrad.quantize_weights_(model)
    fastgrad.quantize_weights_(other)
    other.load_state_dict(dense_state_dict(model))
    error = (other.inner.weight.dense() - model.inner.weight.dense()).abs()
    assert (error <= 0.5001 * other.inner.weight.scales).all()  # rounded to nearest; one float32 rounding more


@pytest.mark.parametrize("where", (None, "cpu", lambda storage, place: storage), ids=("as saved", "name", "function"))
def test_torch_save_is_exact(tmp_path, where):
    model, other = Tied(), Tied(seed=1)
    for made in (model, other):
        fastgrad.quantize_weights_(made)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", map_location=where, weights_only=True))
    assert_same_bits(payloads(other), payloads(model), "codes and scales")


def test_a_whole_model_keeps_parameters_and_ties(tmp_path):
    model = Tied()
    fastgrad.quantize_weights_(model)
    model.inner.weight.requires_grad_(False)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert loaded.out.weight is loaded.embedding.weight
    assert [(n, p.requires_grad) for n, p in loaded.named_parameters()] == [
        (n, p.requires_grad) for n, p in model.named_parameters()
    ]
    assert isinstance(loaded.inner.weight, nn.Parameter)
    assert_same_bits(payloads(loaded), payloads(model), "codes and scales")


def test_safetensors_is_told_what_to_do(tmp_path):
    torch_of_safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model = Tied()
    fastgrad.quantize_weights_(model)
    with pytest.raises(RuntimeError, match=r"dense_state_dict\(model\)"):
        torch_of_safetensors.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch_of_safetensors.save_file({"w": dense_state_dict(model)["inner.weight"]}, tmp_path / "weights.safetensors")
