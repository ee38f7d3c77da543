// From Python to a sweep: a list of tensors comes as columns with one number per tensor, lists or the bytes of 64-bit
// integers (tensor_list.h makes those). Shapes, types and aliasing were checked by the caller (fastgrad/ops).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "job.h"
#include "numerics/stream.h"

namespace fastgrad {

namespace py = pybind11;

inline int64_t number_of(int64_t, PyObject* number) { return PyLong_AsLongLong(number); }
inline double number_of(double, PyObject* number) { return PyFloat_AsDouble(number); }

// One column of the list, or nothing.
template <class T>
class Column {
 public:
  Column(const py::dict& columns, const char* name, size_t expected) {
    PyObject* list = PyDict_GetItemString(columns.ptr(), name);
    if (list == nullptr) return;
    if constexpr (std::is_same_v<T, int64_t>) {
      if (PyBytes_Check(list) && static_cast<size_t>(PyBytes_GET_SIZE(list)) == expected * sizeof(T)) {
        numbers_.resize(expected);
        if (expected > 0) memcpy(numbers_.data(), PyBytes_AS_STRING(list), expected * sizeof(T));
        return;
      }
    }
    if (!PyList_Check(list) || static_cast<size_t>(PyList_GET_SIZE(list)) != expected) {
      throw std::invalid_argument(std::string(name) + ": expected one number per tensor");
    }
    numbers_.resize(expected);
    for (size_t i = 0; i < expected; ++i) numbers_[i] = number_of(T{}, PyList_GET_ITEM(list, i));
    if (PyErr_Occurred()) throw py::error_already_set();
  }
  explicit operator bool() const { return !numbers_.empty(); }
  T operator[](size_t i) const { return numbers_[i]; }
  T get(size_t i, T otherwise) const { return *this ? numbers_[i] : otherwise; }
  template <class P>
  P* address(size_t i) const {
    return *this ? reinterpret_cast<P*>(static_cast<uintptr_t>(numbers_[i])) : nullptr;
  }

 private:
  std::vector<T> numbers_;
};

template <class T>
T option(const py::dict& options, const char* name, T otherwise) {
  return options.contains(name) ? options[name].cast<T>() : otherwise;
}

struct Arguments {
  std::vector<TensorJob> jobs;
  Sweep sweep;
};

// Reads addresses and numbers; dereferences nothing, so that they may be a device's.
inline Arguments read_arguments(const py::dict& columns, const py::dict& options) {
  const size_t count = option<size_t>(options, "count", 0);
  Arguments arguments;
  Sweep& s = arguments.sweep;
  s.method = option(options, "method", 0);
  s.alpha = option(options, "alpha", 0);
  s.eps = option(options, "eps", s.eps);
  s.max_norm = option(options, "max_norm", s.max_norm);
  s.state = reinterpret_cast<double*>(option<uintptr_t>(options, "state", 0));
  s.format = option(options, "format", 0);
  s.rounding = option(options, "rounding", 0);
  s.scale_kind = static_cast<ScaleKind>(option(options, "scale_kind", 0));
  s.block = option(options, "block", 0);
  s.pow2 = option(options, "pow2", false);
  s.lagged = reinterpret_cast<const double*>(option<uintptr_t>(options, "lagged", 0));
  s.seed = option<uint64_t>(options, "seed", 0);
  s.inv_scale = option(options, "inv_scale", 1.0);
  s.measure = option(options, "measure", true);
  s.skip_nonfinite = option(options, "skip_nonfinite", false);
  s.step = reinterpret_cast<const int64_t*>(option<uintptr_t>(options, "step_address", 0));
  s.factors = reinterpret_cast<const double*>(option<uintptr_t>(options, "factors_address", 0));
  s.weight_rounding = option(options, "weight_rounding", 1);
  s.update = static_cast<Update>(option(options, "update", 0));
  s.phase = static_cast<Phase>(option(options, "phase", 0));
  s.two_reads = option(options, "two_reads", false);
  s.threads = option(options, "threads", 1);
  const auto purpose = static_cast<Purpose>(option(options, "purpose", 0));
  const uint64_t step = option<uint64_t>(options, "step", 0), slot = option<uint64_t>(options, "slot", 0);
  const auto* hyper = reinterpret_cast<const double*>(option<uintptr_t>(options, "hyper", 0));
  const auto hyper_rows = option<int64_t>(options, "hyper_rows", 0);

  const Column<int64_t> n(columns, "n", count), rows(columns, "rows", count), flags(columns, "flags", count),
      ids(columns, "ids", count), grad(columns, "grad", count), grad_type(columns, "grad_type", count),
      out(columns, "out", count), out_type(columns, "out_type", count), codes(columns, "codes", count),
      scales(columns, "scales", count), given(columns, "given_scales", count), param(columns, "param", count),
      param_type(columns, "param_type", count), momentum(columns, "momentum", count),
      momentum_type(columns, "momentum_type", count), group(columns, "group", count), offset(columns, "offset", count),
      whole_rows(columns, "whole_rows", count),
      param_scales(columns, "param_scales", count), param_block(columns, "param_block", count),
      first(columns, "first", count), first_format(columns, "first_format", count),
      first_scales(columns, "first_scales", count), first_block(columns, "first_block", count),
      second(columns, "second", count), second_kind(columns, "second_kind", count),
      second_scales(columns, "second_scales", count), second_block(columns, "second_block", count),
      age(columns, "age", count), row_sums(columns, "row_sums", count), column_sums(columns, "column_sums", count);
  const Column<double> factor(columns, "factor", count), bound(columns, "bound", count);
  s.sharded = static_cast<bool>(offset);
  std::vector<TensorJob>& jobs = arguments.jobs;
  jobs.resize(count);
  for (size_t i = 0; i < count; ++i) {
    TensorJob& job = jobs[i];
    job.n = n[i];
    job.rows = rows.get(i, 0);
    job.whole_rows = whole_rows.get(i, job.rows);
    job.offset = offset.get(i, 0);
    job.flags = static_cast<int>(flags.get(i, 0));
    job.grad = grad.address<const void>(i);
    job.grad_type = static_cast<Type>(grad_type.get(i, 0));
    job.out = out.address<void>(i);
    job.out_type = static_cast<Type>(out_type.get(i, 0));
    job.codes = codes.address<void>(i);
    job.scales = scales.address<float>(i);
    job.given_scales = given.address<const float>(i);
    job.parameter = param.address<void>(i);
    job.parameter_type = static_cast<Type>(param_type.get(i, 0));
    job.parameter_scales = param_scales.address<float>(i);
    job.parameter_block = static_cast<int>(param_block.get(i, 0));
    job.momentum = momentum.address<void>(i);
    job.momentum_type = static_cast<Type>(momentum_type.get(i, 0));
    job.factor = factor.get(i, 1.0);
    const auto id = static_cast<uint64_t>(ids.get(i, static_cast<int64_t>(i)));
    job.stream = pack_stream(purpose, id, step, slot);
    job.weight_stream = pack_stream(Purpose::weight, id, step, slot);
    AdamwState& state = job.adamw;
    state.first = first.address<void>(i);
    state.first_format = static_cast<int>(first_format.get(i, 0));
    state.first_scales = first_scales.address<float>(i);
    state.first_block = static_cast<int>(first_block.get(i, 0));
    state.second = second.address<void>(i);
    state.second_kind = static_cast<SecondMoment>(second_kind.get(i, 0));
    state.second_scales = second_scales.address<float>(i);
    state.second_block = static_cast<int>(second_block.get(i, 0));
    state.age = age.get(i, 1);
    state.row_sums = row_sums.address<double>(i);
    state.column_sums = column_sums.address<double>(i);
    state.bound = static_cast<float>(bound.get(i, -1.0));
    state.first_stream = pack_stream(Purpose::state, id, step, 0);
    state.second_stream = pack_stream(Purpose::state, id, step, 1);
    if (hyper == nullptr) continue;
    const int64_t g = group.get(i, 0);
    if (g < 0 || g >= hyper_rows) throw std::invalid_argument("groups: a number outside the rows of hyper");
    job.hyper = hyper + 8 * g;
  }
  return arguments;
}

}  // namespace fastgrad
