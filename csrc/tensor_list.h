// Lists of torch's tensors, read in one call: addresses, sizes, types. By way of the C functions that torch.Tensor offers
// for this (`__dlpack_c_exchange_api__`, DLPack 1.3, torch 2.10): this module knows no torch. Number by number in Python,
// the reading of a list of small tensors takes longer than what the kernels do to them.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fastgrad {

namespace py = pybind11;

// The binary interface of DLPack, version 1 (dmlc/dlpack, dlpack.h), as far as it is used.
struct DlTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t dimensions;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct DlExchange {
  uint32_t major, minor;
  void* previous;
  void *allocate, *to_managed, *from_managed;
  int (*view)(void* python_object, DlTensor* out);  // 0, or -1 with a Python error set; the tensor keeps its memory
  void* current_stream;
};

class TensorReader {
 public:
  // types: those whose instances are read, torch.Tensor and torch.nn.Parameter: a subclass may make up what it says.
  TensorReader(const py::capsule& exchange, py::tuple types) : types_(std::move(types)) {
    const auto* functions = static_cast<const DlExchange*>(PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api"));
    if (functions == nullptr) throw py::error_already_set();
    if (functions->major != 1 || functions->view == nullptr) throw std::invalid_argument("exchange: another version");
    view_ = functions->view;
  }

  // Addresses, elements and types, each as the bytes of 64-bit integers; whether all tensors are contiguous; whether all
  // are of a type that kernels read (others have type 0). None where something is not a tensor in this machine's memory.
  py::object read(const py::list& tensors) const {
    const size_t count = tensors.size();
    std::vector<int64_t> addresses(count), sizes(count), types(count);
    bool contiguous = true, floats = true;
    const bool all = each(tensors, [&](size_t i, const DlTensor& t) {
      addresses[i] = address_of(t);
      sizes[i] = elements_of(t);
      const int type = type_of(t);
      types[i] = type < 0 ? 0 : type;
      floats &= type >= 0;
      contiguous &= is_contiguous(t);
    });
    if (!all) return py::none();
    return py::make_tuple(bytes_of(addresses), bytes_of(sizes), bytes_of(types), contiguous, floats);
  }

  // The size of dim 0 where there are more, else 0; or None.
  py::object rows(const py::list& tensors) const {
    py::list rows(tensors.size());
    const bool all = each(tensors, [&](size_t i, const DlTensor& t) { rows[i] = t.dimensions > 1 ? t.shape[0] : 0; });
    return all ? py::object(rows) : py::none();
  }

  // Whether the tensors are contiguous and surely have no byte in common.
  bool are_apart(const py::list& tensors) const {
    std::vector<std::pair<int64_t, int64_t>> spans(tensors.size());
    bool contiguous = true;
    const bool all = each(tensors, [&](size_t i, const DlTensor& t) {
      contiguous &= is_contiguous(t);
      spans[i] = {address_of(t), address_of(t) + elements_of(t) * ((t.type_bits * t.type_lanes + 7) / 8)};
    });
    if (!all || !contiguous) return false;
    std::sort(spans.begin(), spans.end());
    for (size_t i = 1; i < spans.size(); ++i) {
      if (spans[i - 1].second > spans[i].first) return false;
    }
    return true;
  }

 private:
  template <class Use>
  bool each(const py::list& tensors, const Use& use) const {
    constexpr int32_t kCpu = 1;
    for (size_t i = 0; i < tensors.size(); ++i) {
      PyObject* tensor = PyList_GET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(i));
      bool known = false;
      for (const py::handle type : types_) known |= reinterpret_cast<PyObject*>(Py_TYPE(tensor)) == type.ptr();
      if (!known) return false;
      DlTensor view;
      if (view_(tensor, &view) != 0) {
        PyErr_Clear();
        return false;
      }
      if (view.device_type != kCpu) return false;
      if (view.data == nullptr && elements_of(view) > 0) return false;  // its storage was freed, or never was
      use(i, view);
    }
    return true;
  }

  static int64_t address_of(const DlTensor& t) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.data) + (t.data == nullptr ? 0 : t.byte_offset));
  }
  static int64_t elements_of(const DlTensor& t) {
    int64_t n = 1;
    for (int d = 0; d < t.dimensions; ++d) n *= t.shape[d];
    return n;
  }
  static bool is_contiguous(const DlTensor& t) {
    int64_t expected = 1;
    bool in_order = true;
    for (int d = t.dimensions - 1; d >= 0; --d) {
      if (t.shape[d] == 0) return true;
      in_order &= t.shape[d] == 1 || t.strides[d] == expected;
      expected *= t.shape[d];
    }
    return in_order;
  }
  // The numbers of Type in job.h, or -1.
  static int type_of(const DlTensor& t) {
    constexpr uint8_t kFloat = 2, kBfloat = 4;
    if (t.type_lanes != 1) return -1;
    if (t.type_code == kFloat && t.type_bits == 32) return 0;
    if (t.type_code == kBfloat && t.type_bits == 16) return 1;
    return t.type_code == kFloat && t.type_bits == 16 ? 2 : -1;
  }
  static py::bytes bytes_of(const std::vector<int64_t>& numbers) {
    return py::bytes(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(int64_t));
  }

  py::tuple types_;
  int (*view_)(void*, DlTensor*);
};

}  // namespace fastgrad
