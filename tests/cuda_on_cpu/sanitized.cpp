// The sweep kernels of one format under a sanitizer: every tensor in memory of its own and of exactly its size. Prints a
// digest of all results for each schedule; with -DOVERRUN a tensor is one element shorter than its job says.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/host.h"
#include "cuda/kernels.h"
#include "cuda_on_cpu.h"
#include "numerics/normalizers.h"
#include "numerics/rounding.h"

FASTGRAD_NUMERICS_BEGIN
#define FASTGRAD_STUB(FORMAT) \
  SweepKernel sweep_kernel_##FORMAT(Optimizer) { return nullptr; }
FASTGRAD_STUB(fp32)
FASTGRAD_STUB(bf16)
FASTGRAD_STUB(fp16)
FASTGRAD_STUB(fp8_e5m2)
FASTGRAD_STUB(fp4_e2m1)
FASTGRAD_STUB(int8)
FASTGRAD_STUB(int4)
FASTGRAD_NUMERICS_END

namespace {

using namespace fastgrad;

struct Case {
  Method method;
  ScaleKind scale;
  bool update, skip;
};

uint64_t digest = 0;
void add(const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) digest = (digest ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3ull;
}

float value(int64_t i, int tensor) {
  const uint32_t x = static_cast<uint32_t>(i * 2654435761u + static_cast<uint32_t>(tensor) * 40503u);
  if (tensor == 2 && i % 97 == 5) return bits_float(kNaN);
  return (static_cast<float>(x >> 8) / 8388608.0f - 1.0f) * 1e-3f;
}

template <class T>
struct Memory {  // the heap's own, so that a sanitizer knows its ends
  std::unique_ptr<char[]> bytes;
  T* data;
  // odd: not aligned to a quad
  explicit Memory(int64_t n, bool odd = false)
      : bytes(new char[static_cast<size_t>(n) * sizeof(T) + (odd ? sizeof(T) : 0)]),
        data(reinterpret_cast<T*>(bytes.get() + (odd ? sizeof(T) : 0))) {}
};

void run(const Case& c, const std::vector<int64_t>& sizes) {
  std::vector<Memory<float>> grads, parameters, momenta, scales;
  std::vector<Memory<uint8_t>> codes;
  std::vector<TensorJob> jobs;
  const double hyper[8] = {0.1, 0.9, 0.0, 1e-3, 1.0, 0.0, 0.0, 0.0};
  double state[2] = {0.0, 0.0};
  for (size_t t = 0; t < sizes.size(); ++t) {
    const int64_t n = sizes[t], blocks = c.scale == ScaleKind::block ? (n + 31) / 32 : 1;
    const bool odd = t == 1;
#ifdef OVERRUN
    const int64_t there = t == 0 ? n - 1 : n;
#else
    const int64_t there = n;
#endif
    grads.emplace_back(there, odd);
    for (int64_t i = 0; i < there; ++i) grads.back().data[i] = value(i, static_cast<int>(t));
    TensorJob job;
    job.n = n;
    job.rows = n % 4 == 0 ? 4 : 0;
    job.flags = kNormalize | kQuantize;
    job.grad = grads.back().data;
    codes.emplace_back(n);
    job.codes = codes.back().data;
    scales.emplace_back(blocks);
    if (c.scale != ScaleKind::none) job.scales = scales.back().data;
    job.stream = t;
    if (c.update) {
      parameters.emplace_back(n);
      momenta.emplace_back(n);
      for (int64_t i = 0; i < n; ++i) parameters.back().data[i] = momenta.back().data[i] = value(i, 7);
      job.parameter = parameters.back().data;
      job.momentum = momenta.back().data;
      job.hyper = hyper;
    }
    jobs.push_back(job);
  }
  Sweep sweep;
  sweep.method = static_cast<int>(c.method);
  sweep.state = state;
  sweep.format = static_cast<int>(Format::fp8_e4m3);
  sweep.scale_kind = c.scale;
  sweep.block = 32;
  sweep.skip_nonfinite = c.skip;
  sweep.seed = 42;
  const CudaSweep plan(jobs, sweep, 0);
  Memory<char> upload(plan.upload_bytes()), workspace(plan.workspace_bytes());
  std::vector<double> table((sizes.size() + 1) * kTableColumns);
  plan.write_upload(upload.data);
  plan.launch(upload.data, workspace.data, table.data(), nullptr);
  add(table.data(), table.size() * sizeof(double));
  if (c.skip) return;  // nothing was written
  for (size_t t = 0; t < sizes.size(); ++t) {
    add(codes[t].data, static_cast<size_t>(sizes[t]));
    if (c.update) add(parameters[t].data, static_cast<size_t>(sizes[t]) * sizeof(float));
    if (c.scale == ScaleKind::block) add(scales[t].data, static_cast<size_t>((sizes[t] + 31) / 32) * sizeof(float));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int schedules = argc > 1 ? std::atoi(argv[1]) : 2;
  const std::vector<int64_t> sizes = {2048, 1500, 3000, 4, 66560};
  const std::vector<Case> cases = {{Method::none, ScaleKind::none, false, false},
                                   {Method::znorm, ScaleKind::tensor, true, false},
                                   {Method::autoscale, ScaleKind::block, false, false},
                                   {Method::centralize, ScaleKind::tensor, true, false},
                                   {Method::clip, ScaleKind::tensor, true, true}};
  for (int schedule = 0; schedule < schedules; ++schedule) {
    cuda_on_cpu::set_schedule(static_cast<uint64_t>(schedule));
    cuda_on_cpu::set_resident_blocks(2 + schedule);
    digest = 0xcbf29ce484222325ull;
    for (const Case& c : cases) run(c, sizes);
    std::printf("%016llx\n", static_cast<unsigned long long>(digest));
  }
}
