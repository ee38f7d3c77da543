// The seam to Python: takes addresses, sizes and plain numbers. Knows no torch.
//
// A list of tensors comes as columns: buffers of int64 (array.array("q")) with one entry per tensor. Shapes, types
// and aliasing were checked by the caller (fastgrad/ops).
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/job.h"
#include "cpu/parallel.h"
#include "cpu/sweep.h"
#include "numerics/philox.h"
#include "numerics/sgd.h"
#include "numerics/stream.h"

namespace py = pybind11;

namespace fastgrad {
namespace {

const ChunkKernels& kernels_named(const std::string& name) {
#if defined(FASTGRAD_X86)
  if (name == "avx512") return chunk_kernels_avx512();
  if (name == "avx2") return chunk_kernels_avx2();
#endif
  if (name == "baseline") return chunk_kernels_baseline();
  throw std::invalid_argument("instruction_set: this build has no kernels named '" + name + "'");
}

py::list instruction_sets() {
  py::list names;
#if defined(FASTGRAD_X86)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    names.append("avx512");
  }
  if (__builtin_cpu_supports("avx2")) names.append("avx2");
#endif
  names.append("baseline");
  return names;
}

// One column of the list, or nothing.
template <class T>
class Column {
 public:
  Column(const py::dict& columns, const char* name, size_t expected) {
    if (!columns.contains(name)) return;
    info_ = columns[name].cast<py::buffer>().request();
    if (info_.itemsize != sizeof(T) || static_cast<size_t>(info_.size) != expected) {
      throw std::invalid_argument(std::string(name) + ": wrong item size or length");
    }
  }
  explicit operator bool() const { return info_.ptr != nullptr; }
  T operator[](size_t i) const { return static_cast<const T*>(info_.ptr)[i]; }
  T get(size_t i, T otherwise) const { return *this ? (*this)[i] : otherwise; }
  template <class P>
  P* address(size_t i) const {
    return *this ? reinterpret_cast<P*>(static_cast<uintptr_t>((*this)[i])) : nullptr;
  }

 private:
  py::buffer_info info_;
};

template <class T>
T option(const py::dict& options, const char* name, T otherwise) {
  return options.contains(name) ? options[name].cast<T>() : otherwise;
}

void set_sgd(TensorJob& job, const double* hyper) {
  const double lr = hyper[0], mu = hyper[1], dampening = hyper[2], weight_decay = hyper[3];
  const bool nesterov = hyper[4] != 0, decoupled = hyper[5] != 0, maximize = hyper[6] != 0;
  job.lr = lr * job.factor;
  job.mu = mu;
  job.one_minus_dampening = 1.0 - dampening;
  job.weight_decay = weight_decay;
  job.decay = 1.0 - lr * weight_decay;
  job.sgd_flags = (maximize ? kMaximize : 0) | (mu != 0 ? kMomentum : 0) | (nesterov ? kNesterov : 0) |
                  ((job.flags & kFirst) != 0 ? kFirstStep : 0);
  if (weight_decay != 0) job.sgd_flags |= decoupled ? kDecoupledDecay : kCoupledDecay;
}

bool sweep(const py::dict& columns, const py::dict& options, uintptr_t table) {
  const size_t count = option<size_t>(options, "count", 0);
  Sweep s;
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
  s.weight_rounding = option(options, "weight_rounding", 1);
  s.two_reads = option(options, "two_reads", false);
  s.threads = option(options, "threads", 1);
  const auto purpose = static_cast<Purpose>(option(options, "purpose", 0));
  const uint64_t step = option<uint64_t>(options, "step", 0), slot = option<uint64_t>(options, "slot", 0);
  const auto* hyper = reinterpret_cast<const double*>(option<uintptr_t>(options, "hyper", 0));
  const auto hyper_rows = option<int64_t>(options, "hyper_rows", 0);
  const ChunkKernels& kernels = kernels_named(option<std::string>(options, "instruction_set", "baseline"));

  const Column<int64_t> n(columns, "n", count), rows(columns, "rows", count), flags(columns, "flags", count),
      ids(columns, "ids", count), grad(columns, "grad", count), grad_type(columns, "grad_type", count),
      out(columns, "out", count), out_type(columns, "out_type", count), codes(columns, "codes", count),
      scales(columns, "scales", count), given(columns, "given_scales", count), param(columns, "param", count),
      param_type(columns, "param_type", count), momentum(columns, "momentum", count),
      momentum_type(columns, "momentum_type", count), group(columns, "group", count);
  const Column<double> factor(columns, "factor", count);
  std::vector<TensorJob> jobs(count);
  for (size_t i = 0; i < count; ++i) {
    TensorJob& job = jobs[i];
    job.n = n[i];
    job.rows = rows.get(i, 0);
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
    job.momentum = momentum.address<void>(i);
    job.momentum_type = static_cast<Type>(momentum_type.get(i, 0));
    job.factor = factor.get(i, 1.0);
    const auto id = static_cast<uint64_t>(ids.get(i, static_cast<int64_t>(i)));
    job.stream = pack_stream(purpose, id, step, slot);
    job.weight_stream = pack_stream(Purpose::weight, id, step, slot);
    if (hyper == nullptr) continue;
    const int64_t g = group.get(i, 0);
    if (g < 0 || g >= hyper_rows) throw std::invalid_argument("groups: a number outside the rows of hyper");
    set_sgd(job, hyper + 8 * g);
    if ((job.sgd_flags & kMomentum) != 0 && job.momentum == nullptr && job.n > 0) {
      throw std::invalid_argument("momenta: expected buffers, because hyper has a momentum");
    }
  }
  const py::gil_scoped_release release;
  return run_sweep(jobs, s, kernels, reinterpret_cast<double*>(table));
}

void dequantize(const py::dict& columns, size_t count, int format, int block, int type, int threads,
                const std::string& instruction_set) {
  const ChunkKernels& kernels = kernels_named(instruction_set);
  const Column<int64_t> n(columns, "n", count), codes(columns, "codes", count), scales(columns, "scales", count),
      out(columns, "out", count);
  const py::gil_scoped_release release;
  for (size_t i = 0; i < count; ++i) {
    run_dequantize(codes.address<const void>(i), format, scales.address<const float>(i), block, n[i],
                   out.address<void>(i), static_cast<Type>(type), threads, kernels);
  }
}

void noise(uint64_t seed, uint64_t stream, int64_t tile, uintptr_t target, const std::string& instruction_set) {
  kernels_named(instruction_set).noise(seed, stream, tile, reinterpret_cast<uint16_t*>(target));
}

// Rounds values with given noises, for the exhaustive tests of the formulas.
void round_values(uintptr_t y, uintptr_t noises, int64_t n, float inverse_scale, float scale, int format, int rounding,
                  uintptr_t codes, uintptr_t values, const std::string& instruction_set) {
  kernels_named(instruction_set)
      .round(reinterpret_cast<const float*>(y), reinterpret_cast<const int32_t*>(noises), n, inverse_scale, scale, format,
             rounding, reinterpret_cast<int32_t*>(codes), reinterpret_cast<float*>(values));
}

// Philox by itself, for its known answers.
template <int ROUNDS>
py::tuple philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t seed) {
  const auto w = philox4x32<uint32_t>({c0, c1, c2, c3}, PhiloxKeySchedule<ROUNDS>(seed));
  return py::make_tuple(w.w0, w.w1, w.w2, w.w3);
}

}  // namespace
}  // namespace fastgrad

PYBIND11_MODULE(_native, m) {
  fastgrad::watch_forks();
  m.doc() = "Native kernels of fastgrad. Private: use fastgrad.ops.";
  m.attr("numerics_version") = 1;
  m.attr("compiler") = __VERSION__;
  m.def("instruction_sets", &fastgrad::instruction_sets, "Instruction sets this machine can run, best first.");
  m.def("parallel_engine", &fastgrad::parallel_engine, "What runs the threads.");
  m.def("sweep", &fastgrad::sweep, py::arg("columns"), py::arg("options"), py::arg("table"));
  m.def("dequantize", &fastgrad::dequantize);
  m.def("noise", &fastgrad::noise);
  m.def("round_values", &fastgrad::round_values);
  m.def("philox7", &fastgrad::philox<7>);
  m.def("philox10", &fastgrad::philox<10>);
}
