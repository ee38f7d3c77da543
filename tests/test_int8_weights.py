"""Int8Weight in models: the results and gradients of its dense weight, copies, files, conversions, compilation."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch._dynamo
from contract_bits import assert_same_bits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastgrad
from fastgrad.optim import SGD, AdamW
from fastgrad.weights import Int8Weight

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def dense_twin(module: nn.Module) -> nn.Module:
    """The same module with the numbers of its int8 weights as ordinary parameters."""
    twin = copy.deepcopy(module)
    for inner, other in zip(module.modules(), twin.modules(), strict=True):
        if isinstance(getattr(inner, "weight", None), Int8Weight):
            other.weight = nn.Parameter(inner.weight.dense(), inner.weight.requires_grad)
    return twin


def linear(dtype: torch.dtype = torch.float32, bias: bool = True, block: int = 128) -> nn.Linear:
    module = nn.Linear(96, 40, bias=bias, dtype=dtype)
    assert fastgrad.quantize_weights_(module, block=block) == ["weight"]
    return module


def stored(weight: Int8Weight) -> list[Tensor]:
    return [weight.codes.clone(), weight.scales.clone()]


def assert_same_results(module: nn.Module, twin: nn.Module, run, *inputs: Tensor) -> None:
    """Outputs, gradients of parameters, and of inputs that have such: bit for bit."""
    results = []
    for each in (module, twin):
        given = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        y = run(each, *given)
        y.float().square().sum().backward()
        grads = [p.grad for p in each.parameters()] + [x.grad for x in given if x.requires_grad]
        assert all(type(g) is Tensor for g in grads)
        results.append([y.detach(), *grads])
    assert_same_bits(results[0], results[1], "int8 and dense")


@pytest.mark.parametrize("shape", ((7, 96), (2, 5, 96), (96,), (0, 96)), ids=str)
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no bias"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_is_the_dense_linear(dtype, bias, shape):
    module = linear(dtype, bias, block=32)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    assert_same_results(module, dense_twin(module), lambda m, x: m(x), x)


@pytest.mark.parametrize("indices", ([[1, 3, 3], [0, 9, 4]], 2, []), ids=str)
@pytest.mark.parametrize("padding", (None, 3, -1), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_embedding_is_the_dense_embedding(dtype, padding, indices):
    module = nn.Embedding(10, 32, padding_idx=padding, dtype=dtype)
    fastgrad.quantize_weights_(module)
    for kind in (torch.int64, torch.int32):
        module.zero_grad()
        assert_same_results(module, dense_twin(module), lambda m, k=kind: m(torch.tensor(indices, dtype=k)))
    if padding is not None:
        assert not module.weight.dense()[padding].any()


@pytest.mark.parametrize("index", (10, -1, -11))
def test_embedding_refuses_what_the_dense_one_refuses(index):
    module = nn.Embedding(10, 32)
    twin = copy.deepcopy(module)
    fastgrad.quantize_weights_(module)
    for each in (module, twin):
        with pytest.raises(IndexError, match="out of range"):
            each(torch.tensor([0, index]))
    for option in (dict(max_norm=1.0), dict(sparse=True), dict(scale_grad_by_freq=True)):
        with pytest.raises(NotImplementedError, match="no max_norm, scale_grad_by_freq or sparse"):
            F.embedding(torch.tensor([0]), module.weight, **option)


@pytest.mark.parametrize("dtype", (torch.int64, torch.float64, torch.bfloat16), ids=str)
def test_inputs_of_another_type_are_refused_as_by_the_dense_one(dtype):
    module = linear()
    for each in (module, dense_twin(module)):
        with pytest.raises(RuntimeError, match="must have the same dtype"):
            each(torch.ones(2, 96, dtype=dtype))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_autocast(dtype):
    module = linear(dtype)
    model = nn.Sequential(module, nn.LayerNorm(40, dtype=dtype))

    def run(m, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert m[0](x).dtype == torch.bfloat16
            return m(x)

    assert_same_results(model, dense_twin(model), run, torch.randn(6, 96, requires_grad=True))


class Tied(nn.Module):
    """An embedding and an output with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(48, 32)
        self.inner = nn.Linear(32, 32)
        self.out = nn.Linear(32, 48, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(self.embedding(tokens))))


def test_tied_weights_stay_tied():
    model = Tied()
    assert fastgrad.quantize_weights_(model) == ["embedding.weight", "inner.weight", "out.weight"]
    assert model.out.weight is model.embedding.weight and len(list(model.parameters())) == 3
    tokens = torch.randint(0, 48, (3, 5))
    twin = dense_twin(model)
    twin.out.weight = twin.embedding.weight
    assert_same_results(model, twin, lambda m: m(tokens))
    copied = copy.deepcopy(model)
    assert copied.out.weight is copied.embedding.weight
    assert fastgrad.quantize_weights_(model) == []  # they are, already


def test_a_part_without_gradient_and_evaluation():
    module = linear()
    twin = dense_twin(module)
    x = torch.randn(3, 96)
    module.weight.requires_grad_(False)
    y = module(x)
    y.sum().backward()
    assert module.weight.grad is None and module.bias.grad is not None
    module.bias.requires_grad_(False)
    assert not module(x).requires_grad
    with torch.no_grad():
        assert_same_bits([module(x)], [twin(x)], "no_grad")
    with torch.inference_mode():
        assert_same_bits([module.eval()(x).clone()], [twin(x).clone()], "inference_mode")
    module.weight.requires_grad_(True)
    module(x).sum().backward()
    assert module.weight.grad.shape == (40, 96)
    frozen = nn.Linear(96, 40)
    frozen.weight.requires_grad_(False)
    fastgrad.quantize_weights_(frozen)
    assert not frozen.weight.requires_grad


@pytest.mark.parametrize("reentrant", (True, False), ids=("reentrant", "not reentrant"))
def test_gradient_checkpointing(reentrant):
    model = nn.Sequential(nn.Linear(96, 64), nn.GELU(), nn.Linear(64, 96))
    fastgrad.quantize_weights_(model)
    x = torch.randn(5, 96, requires_grad=True)
    run = lambda m, x: checkpoint(m, x, use_reentrant=reentrant)  # noqa: E731
    assert_same_results(model, dense_twin(model), run, x)


@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
def test_a_transformer_layer(training):
    """Its attention calls functions that see dense weights; in evaluation those of the dense one are fused."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).train(training)
    names = fastgrad.quantize_weights_(layer)
    assert names == ["self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    x = torch.randn(2, 6, 32)
    twin = dense_twin(layer)
    if training:
        assert_same_results(layer, twin, lambda m, x: m(x), x.requires_grad_())
    else:
        with torch.no_grad():
            torch.testing.assert_close(layer(x), twin(x))


FUNCTIONS = {
    "rows": lambda w: w[2:7],
    "last rows": lambda w: w[-7:],
    "rows to the end": lambda w: w[30:4000],
    "no rows": lambda w: w[7:2],
    "every other row": lambda w: w[::2],
    "columns": lambda w: w[:, 5:9],
    "a row": lambda w: w[3],
    "an element": lambda w: w[3, 4],
    "a mask": lambda w: w[torch.arange(40) % 3 == 0],
    "transposed": lambda w: w.t(),
    "flat": lambda w: w.view(-1),
    "chunk": lambda w: w.chunk(3)[1],
    "product": lambda w: torch.ones(4, 40) @ w,
    "a linear of a slice": lambda w: F.linear(torch.ones(3, 96), w[:16]),
    "norm": lambda w: w.norm(),
    "sum": lambda w: w.sum(0),
    "plus one": lambda w: w + 1,
    "concatenated": lambda w: torch.cat([w, w]),
    "another type": lambda w: w.double(),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_other_functions_see_the_dense_weight(function):
    module = linear(bias=False)
    twin = dense_twin(module)
    assert_same_results(module, twin, lambda m: FUNCTIONS[function](m.weight))


WRITES = {
    "normal_": lambda w: nn.init.normal_(w),
    "zero_": lambda w: w.zero_(),
    "add_": lambda w: w.add_(1.0),
    "a row": lambda w: w.__setitem__(0, 1.0),
    "data": lambda w: setattr(w, "data", torch.zeros(40, 96)),
    "data of another type": lambda w: setattr(w, "data", Int8Weight.from_dense(torch.zeros(40, 96).half())),
    "data of another shape": lambda w: setattr(w, "data", Int8Weight.from_dense(torch.zeros(8, 96))),
    "out": lambda w: torch.add(torch.ones(40, 96), 1.0, out=w),
    "torch's AdamW": lambda w: torch.optim.AdamW([w]).step(),
    "torch's SGD": lambda w: torch.optim.SGD([w], 0.1, foreach=True).step(),
    "attach": lambda w: fastgrad.attach(torch.optim.SGD([w], 0.1), normalize="centre").optimizer.step(),
}


@pytest.mark.parametrize("write", WRITES)
def test_writes_that_would_be_lost_are_refused(write):
    module = linear()
    module(torch.ones(2, 96)).sum().backward()
    before = stored(module.weight)
    with torch.no_grad(), pytest.raises(NotImplementedError, match=r"int8 weight is written by fastgrad\.optim\.AdamW"):
        WRITES[write](module.weight)
    assert_same_bits(stored(module.weight), before, write)
    assert type(module.weight) is Int8Weight


def test_whole_copies_are_written():
    """Of another int8 weight the codes, of a dense one its nearest."""
    a, b = linear(block=32), linear(block=32)
    with torch.no_grad():
        a.weight.copy_(b.weight)
    assert_same_bits(stored(a.weight), stored(b.weight), "copy_")
    assert a.weight.codes.data_ptr() != b.weight.codes.data_ptr()
    dense = torch.randn(40, 96)
    for source in (dense, dense.bfloat16().float(), Int8Weight.from_dense(dense, block=16)):
        with torch.no_grad():
            a.weight.copy_(source)
        numbers = source.dense() if isinstance(source, Int8Weight) else source
        assert_same_bits(stored(a.weight), stored(Int8Weight.from_dense(numbers, block=32)), "dense copy_")
    a.weight.data = b.weight.detach().clone()
    assert_same_bits(stored(a.weight), stored(b.weight), ".data")


def test_second_derivatives_are_refused():
    """Those through the weight would be missing."""
    module = linear()
    y = module(torch.randn(2, 96, requires_grad=True))
    (g,) = torch.autograd.grad(y.square().sum(), module.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.parametrize("kind", ("step", "release", "copy_"))
def test_a_backward_through_weights_that_changed_raises(kind):
    """It would use the new ones."""
    module = linear()
    x = torch.randn(2, 96, requires_grad=True)
    optimizer = AdamW(module.parameters(), 1e-2)
    if kind == "release":
        fastgrad.release_gradients(module, optimizer)
    late, early = module(x).sum(), module(x).sum()
    early.backward()
    if kind == "step":
        optimizer.step()
    elif kind == "copy_":
        with torch.no_grad():
            module.weight.copy_(torch.ones(40, 96))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


@pytest.mark.parametrize("copied", (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))), ids=("deepcopy", "pickle"))
def test_copies_are_parameters_of_their_own(copied):
    module = linear(torch.bfloat16)
    twin = copied(module)
    assert isinstance(twin.weight, nn.Parameter) and type(twin.weight) is Int8Weight and twin.weight.requires_grad
    assert twin.weight.dtype == torch.bfloat16 and twin.weight.block == module.weight.block
    assert_same_bits(stored(twin.weight), stored(module.weight), "copied")
    twin.weight.codes.zero_()
    assert module.weight.codes.any()


@pytest.mark.parametrize("assign", (False, True), ids=("copied", "assigned"))
def test_state_dict_through_a_weights_only_file(assign):
    model, other = Tied(), Tied()
    for each in (model, other):
        fastgrad.quantize_weights_(each)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert file.tell() < 48 * 32 * 2 + 4 * 32 * 33 + 4000  # codes, not floats
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert type(state["inner.weight"]) is Int8Weight
    other.load_state_dict(state, assign=assign)
    for a, b in ((model.inner, other.inner), (model.embedding, other.embedding)):
        assert_same_bits(stored(b.weight), stored(a.weight), "loaded")
        assert isinstance(b.weight, nn.Parameter) and b.weight.requires_grad


def test_state_dicts_of_dense_models():
    """A dense checkpoint into an int8 model: rounded to nearest. An int8 one into a dense model: its numbers."""
    dense, quantized = Tied(), Tied()
    fastgrad.quantize_weights_(quantized)
    quantized.load_state_dict(dense.state_dict())
    expected = Int8Weight.from_dense(dense.inner.weight)
    assert_same_bits(stored(quantized.inner.weight), stored(expected), "from dense")
    dense.load_state_dict(quantized.state_dict())
    assert type(dense.inner.weight) is nn.Parameter
    assert_same_bits([dense.inner.weight], [expected.dense()], "to dense")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conversion_concerns_the_outside(dtype):
    """Codes and scales stay as they are; the optimizer goes on with them."""
    module = linear()
    optimizer = AdamW(module.parameters(), 1e-2)
    module(torch.randn(3, 96)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before, weight = stored(module.weight), module.weight
    module.to(dtype)
    assert module.weight is weight and isinstance(weight, nn.Parameter)
    assert (weight.dtype, weight.codes.dtype, weight.scales.dtype) == (dtype, torch.int8, torch.float32)
    assert_same_bits(stored(weight), before, "converted")
    y = module(torch.randn(3, 96, dtype=dtype))
    assert y.dtype == dtype
    y.sum().backward()
    assert weight.grad.dtype == dtype
    optimizer.step()
    assert not torch.equal(weight.codes, before[0]), "the optimizer wrote to memory that is no longer the weight's"
    assert module.to("meta").weight.codes.device.type == "meta"


def test_conversion_to_what_the_kernels_cannot_read_is_refused():
    with pytest.raises(NotImplementedError, match="its type can be float32, bfloat16 or float16"):
        linear().double()
    with pytest.raises(TypeError, match=r"weight: expected float32, .*, got torch\.float64"):
        fastgrad.quantize_weights_(nn.Linear(32, 32, dtype=torch.float64))


def test_shared_memory():
    module = linear().share_memory()
    assert module.weight.codes.is_shared() and module.weight.scales.is_shared() and module.weight.is_shared()
    assert_same_bits([module(torch.ones(1, 96))], [dense_twin(module)(torch.ones(1, 96))], "shared")


def test_what_is_left_alone():
    """Rows that are not whole multiples of 16, other modules, what is not chosen."""
    model = nn.ModuleDict(
        {
            "odd": nn.Linear(40, 8),
            "short": nn.Linear(8, 32),
            "even": nn.Linear(48, 8),
            "conv": nn.Conv2d(16, 16, 1),
            "norm": nn.LayerNorm(32),
            "head": nn.Linear(64, 16),
        }
    )
    assert fastgrad.quantize_weights_(model, eligible=lambda name, module: name != "head") == ["even.weight"]
    kept = {name: type(m.weight) for name, m in model.items()}
    assert kept == {name: Int8Weight if name == "even" else nn.Parameter for name in model}
    assert model["even"].weight.block == 16
    for arguments, message in (
        (dict(format="int4"), "format: expected 'int8'"),
        (dict(block=48), "block: expected one"),
    ):
        with pytest.raises(ValueError, match=message):
            fastgrad.quantize_weights_(nn.Linear(32, 32), **arguments)
    for shape in ((40,), (4, 40), (2, 2, 32)):
        with pytest.raises(ValueError, match="weight: expected two dimensions and rows of whole multiples of 16"):
            Int8Weight.from_dense(torch.ones(shape))
    for codes, scales, message in (
        (torch.ones(4, 32), torch.ones(4, 1), "codes: expected int8"),
        (torch.ones(4, 32, dtype=torch.int8), torch.ones(3, 1), r"scales: expected float32 \[4, blocks\]"),
    ):
        with pytest.raises(TypeError, match=message):
            Int8Weight(codes, scales, torch.float32)


NOTHING = {
    "short rows": (nn.Linear(10, 4), {}, r"whole multiples of 16 elements, got weight \[4, 10\]"),
    "in a model": (nn.Sequential(nn.ReLU(), nn.Embedding(7, 40)), {}, r"got 1\.weight \[7, 40\]"),
    "none chosen": (nn.Linear(32, 4), {"eligible": lambda name, module: False}, "eligible chose none of its 1 linear"),
    "other layers": (nn.Sequential(nn.Conv2d(16, 16, 1)), {}, r"it has no nn\.Linear and no nn\.Embedding"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_quantize_is_said_once(case):
    model, options, why = NOTHING[case]
    with pytest.warns(UserWarning, match=f"quantize_weights_: the model has no weight in int8: .*{why}") as said:
        assert fastgrad.quantize_weights_(model, **options) == []
    assert len(said) == 1 and said[0].filename == __file__


def test_what_needs_no_warning():
    """A model that is converted already, one of several layers, and a norm on the way of who converts each module."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nn.Sequential(nn.Linear(10, 4), nn.Linear(32, 4))
        assert fastgrad.quantize_weights_(model) == ["1.weight"]
        assert fastgrad.quantize_weights_(model) == []
        assert fastgrad.quantize_weights_(nn.LayerNorm(32)) == []


def test_sgd_refuses_int8_weights():
    with pytest.raises(TypeError, match=r"int8 weights are updated by fastgrad\.optim\.AdamW"):
        SGD(linear().parameters(), 0.1)
    with pytest.raises(ValueError, match="nonfinite: int8 weights cannot hold a NaN"):
        AdamW(linear().parameters(), nonfinite="propagate")
    with pytest.raises(ValueError, match="capturable: steps of int8 weights"):
        AdamW(linear().parameters(), capturable=True)
    assert AdamW(linear().parameters()).treatment.nonfinite == "skip"


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
def test_compiled_models(backend, fresh_compiler):
    """One graph; results and gradients are eager's (to the bit where the compiler keeps the operations), before and
    after steps that change codes and scales."""
    model = Tied()
    fastgrad.quantize_weights_(model)
    twin = copy.deepcopy(model)
    tokens = torch.randint(0, 48, (3, 5))
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    optimizers = [AdamW(m.parameters(), 1e-2) for m in (model, twin)]
    for step in range(3):
        y, z = compiled(tokens), twin(tokens)
        y.square().sum().backward()
        z.square().sum().backward()
        pairs = [(y, z), *((p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))]
        if backend == "aot_eager":
            assert_same_bits([a for a, _ in pairs], [b for _, b in pairs], f"step {step}")
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad.copy_(q.grad)  # so that both take the same step
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert_same_bits(stored(model.inner.weight), stored(twin.inner.weight), "trained")
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), twin(tokens))
