// The seam to Python: takes addresses, sizes and plain numbers. Knows no torch.
#include "arguments.h"
#ifdef FASTGRAD_CUDA
#include "cuda/bindings.h"
#endif
#include "cpu/pages.h"
#include "cpu/parallel.h"
#include "cpu/sweep.h"
#include "numerics/philox.h"
#include "numerics/sgd.h"
#include "tensor_list.h"

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

bool sweep(const py::dict& columns, const py::dict& options, uintptr_t table) {
  Arguments arguments = read_arguments(columns, options);
  const ChunkKernels& kernels = kernels_named(option<std::string>(options, "instruction_set", "baseline"));
  for (const TensorJob& job : arguments.jobs) {
    const bool sgd = job.hyper != nullptr && arguments.sweep.update == Update::sgd;
    const bool needs = sgd && (sgd_step(job.hyper, 1.0, false).flags & kMomentum) != 0;
    if (needs && job.momentum == nullptr && job.n > 0) {
      throw std::invalid_argument("momenta: expected buffers, because hyper has a momentum");
    }
  }
  const py::gil_scoped_release release;
  return run_sweep(arguments.jobs, arguments.sweep, kernels, reinterpret_cast<double*>(table));
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

namespace py = fastgrad::py;

PYBIND11_MODULE(_native, m) {
  fastgrad::watch_forks();
  m.doc() = "Native kernels of fastgrad. Private: use fastgrad.ops.";
  m.attr("numerics_version") = 1;
  m.attr("compiler") = __VERSION__;
  m.def("instruction_sets", &fastgrad::instruction_sets, "Instruction sets this machine can run, best first.");
  m.def("parallel_engine", &fastgrad::parallel_engine, "What runs the threads.");
  m.def("sweep", &fastgrad::sweep, py::arg("columns"), py::arg("options"), py::arg("table"));
  m.def("dequantize", &fastgrad::dequantize);
  py::class_<fastgrad::TensorReader>(m, "TensorReader")
      .def(py::init<const py::capsule&, py::tuple>())
      .def("read", &fastgrad::TensorReader::read)
      .def("rows", &fastgrad::TensorReader::rows)
      .def("are_apart", &fastgrad::TensorReader::are_apart);
  m.def("prefer_large_pages", &fastgrad::prefer_large_pages);
  m.def("noise", &fastgrad::noise);
  m.def("round_values", &fastgrad::round_values);
  m.def("philox7", &fastgrad::philox<7>);
  m.def("philox10", &fastgrad::philox<10>);
#ifdef FASTGRAD_CUDA
  fastgrad::bind_cuda(m);
#endif
}
