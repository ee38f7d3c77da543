"""Lists of tensors read in one native call say what torch says of every one."""

from __future__ import annotations

import ctypes

import pytest
import torch
from contract_data import freed
from torch import nn

from fastgrad import library
from fastgrad.ops import checks, layout, sweeps

if library.native is None or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    pytest.skip(
        f"no reader: native module {library.native_state}, torch {torch.__version__} (2.10 and later have the way)",
        allow_module_level=True,
    )


def test_there_is_a_reader():
    assert library._reader is not None


def integers(column: bytes) -> list[int]:
    return memoryview(column).cast("q").tolist()


def plain_tensors() -> list[torch.Tensor]:
    x = torch.randn(6, 8)
    return [
        x, x[1:, 2:], x.t(), x[::2], x[:, :1], x[3], x[3, 4], x.expand(2, 6, 8), torch.empty(0), torch.empty(0, 3).t(),
        torch.zeros(4).as_strided((1, 4), (7, 1)), nn.Parameter(torch.randn(3)), torch.tensor(2.0),
        torch.randn(4, 5, 6, 7).to(memory_format=torch.channels_last), torch.randn(3).bfloat16(), torch.randn(3).half(),
        torch.randn(5, requires_grad=True), torch.randn(9).share_memory_(),
    ]  # fmt: skip


def test_every_number_is_that_of_torch():
    tensors = plain_tensors()
    read = library.read_list(tensors)
    assert integers(read.addresses) == [t.data_ptr() for t in tensors]
    assert integers(read.sizes) == [t.numel() for t in tensors]
    assert integers(read.types) == [sweeps.DTYPES[t.dtype] for t in tensors]
    assert read.floats and not read.contiguous
    assert library.read_rows(tensors) == [t.shape[0] if t.dim() > 1 else 0 for t in tensors]
    for t in tensors:
        assert layout.all_contiguous([t]) == t.is_contiguous() == library.read_list([t]).contiguous, t.stride()


OTHERS = (torch.float64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", OTHERS)
def test_other_types_are_read_and_known_for_that(dtype):
    read = library.read_list([torch.zeros(4), torch.zeros(4).to(dtype)])
    assert read is not None and not read.floats and integers(read.types) == [0, 0]
    assert read.contiguous and integers(read.sizes) == [4, 4]


def test_nothing_is_known_of_an_empty_list_that_is_not_true():
    read = library.read_list([])
    assert read == (b"", b"", b"", True, True) and library.read_rows([]) == [] and library.are_apart([])


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "odd",
    [
        torch.empty(3, device="meta"), torch.randn(3, 4).to_sparse(), torch.randn(3).as_subclass(Subclass), None, 1.0,
        freed(), torch._efficientzerotensor(4),
    ],
    ids=["meta", "sparse", "subclass", "none", "number", "freed", "zero"],
)  # fmt: skip
def test_what_is_no_plain_tensor_in_memory_is_not_read(odd):
    for tensors in ([odd], [torch.zeros(3), odd]):
        assert library.read_list(tensors) is None and library.read_rows(tensors) is None
        assert not library.are_apart(tensors)


def test_fake_tensors_are_not_read():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(3)
    assert library.read_list([fake]) is None


def test_a_tensor_inside_vmap_is_not_read():
    found = []

    def look(x):
        found.append(library.read_list([x]))
        return x

    torch.func.vmap(look)(torch.randn(3, 4))
    assert found == [None]


def test_memory_that_is_copied_on_write_is_copied():
    """What is read may be written by its address."""
    x = torch.ones(4)
    lazy = torch._lazy_clone(x)
    (address,) = integers(library.read_list([lazy]).addresses)
    assert address == lazy.data_ptr() != x.data_ptr()


def test_spans_that_share_a_byte_are_not_apart():
    x = torch.randn(10)
    assert library.are_apart([x[5:], x[:5], torch.randn(3).bfloat16()])
    assert not library.are_apart([x[:6], x[5:]])
    assert not library.are_apart([x, x])
    assert not library.are_apart([x[3:4], x])
    assert not library.are_apart([torch.randn(4, 4).t()]), "others look closer"


def test_both_ways_of_reading_are_one(monkeypatch):
    tensors = [t for t in plain_tensors() if checks.is_dense(t)]
    fast = sweeps.numbers_of(tensors)
    assert all(isinstance(column, bytes) for column in fast)
    monkeypatch.setattr(library, "_reader", None)
    slow = sweeps.numbers_of(tensors)
    assert [integers(column) for column in fast] == list(slow)
    sweeps.numbers_of(tensors, fast)
    with pytest.raises(ValueError, match=f"momenta: expected {len(tensors)} tensors with as many elements"):
        sweeps.numbers_of(tensors[1:], fast, "momenta")


def test_kernels_are_given_no_type_that_they_do_not_read(monkeypatch):
    for _ in range(2):  # by either way of reading
        for dtype in OTHERS:
            odd = [torch.zeros(4), torch.zeros(4).to(dtype)]
            with pytest.raises(KeyError):
                sweeps.numbers_of(odd)
            assert len(sweeps.numbers_of(odd, codes=True).sizes) in (2, 16)
        monkeypatch.setattr(library, "_reader", None)


kept: list[object] = []  # what capsules point to


def exchange(major: int, name: bytes = b"dlpack_exchange_api") -> object:
    """A capsule as torch offers it, of a table that holds its version and nothing else."""
    table = (ctypes.c_uint32 * 16)(major)
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    kept.extend((table, name))
    return make(ctypes.addressof(table), name, None)


@pytest.mark.parametrize(
    "other", [exchange(2), exchange(1), exchange(1, b"another"), 7], ids=["version", "function", "name", "capsule"]
)
def test_another_exchange_than_the_known_is_left_alone(monkeypatch, other):
    """Of a later version, without the function that is called, of another name, none at all."""
    monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", other)
    assert library._make_reader() is None


def test_results_do_not_depend_on_the_way_of_reading(monkeypatch):
    import fastgrad

    torch.manual_seed(0)
    first = [torch.randn(40, 24), torch.randn(100), torch.randn(4, 5, 6, 7).to(memory_format=torch.channels_last)]
    second = [t.clone() for t in first]
    tables = [fastgrad.normalize_quantize_(first, "centralize", "int8", scale="block", seed=3)]
    monkeypatch.setattr(library, "_reader", None)
    tables.append(fastgrad.normalize_quantize_(second, "centralize", "int8", scale="block", seed=3))
    assert torch.equal(*tables) and all(map(torch.equal, first, second))
