// The bits of everything that runs on a CPU, as hashes: the same program built for another machine, or run on another
// instruction set, must print the same lines (tests/test_portable_bits.py). Torch and Python are not needed.
//
//   portable_bits [instruction set]        default: the baseline; "all" lists the sets that can run here
//   portable_bits planted-overrun          and planted-race: faults that a sanitizer has to report
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cpu/parallel.h"
#include "cpu/sweep.h"
#include "groups.h"

namespace portable_bits {

void report(const char* name, const Digest& digest) { std::printf("%s %016" PRIx64 "\n", name, digest.value); }

void threads_differ(uint64_t one, uint64_t three) {
  std::fprintf(stderr, "1 and 3 threads differ: %016" PRIx64 " and %016" PRIx64 "\n", one, three);
  std::exit(3);
}

const fastgrad::ChunkKernels* set_named(const char* name) {
#if defined(FASTGRAD_X86)
  __builtin_cpu_init();
  if (std::strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return &fastgrad::chunk_kernels_avx512();
  }
  if (std::strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2")) return &fastgrad::chunk_kernels_avx2();
#endif
  return std::strcmp(name, "baseline") == 0 ? &fastgrad::chunk_kernels_baseline() : nullptr;
}

// A gradient that is one element shorter than its job says.
void planted_overrun() {
  Bytes grad = numbers(fastgrad::Type::fp32, Kind::ordinary, 1, 2999), out(3000 * 4);
  std::vector<fastgrad::TensorJob> jobs(1);
  jobs[0].n = 3000;
  jobs[0].grad = grad.data();
  jobs[0].out = out.data();
  double table[2 * fastgrad::kTableColumns];
  fastgrad::run_sweep(jobs, {}, fastgrad::chunk_kernels_baseline(), table);
}

// Tasks that add to one number, each on a thread of its own: it waits until all three have begun.
void planted_race() {
  int64_t sum = 0;
  std::atomic<int> begun{0};
  fastgrad::parallel_for(3, 3, [&](int64_t task) {
    begun.fetch_add(1, std::memory_order_relaxed);  // orders nothing
    while (begun.load(std::memory_order_relaxed) < 3) std::this_thread::yield();
    sum += task;
  });
  std::printf("%" PRId64 "\n", sum);
}

}  // namespace portable_bits

int main(int argc, char** argv) {
  using namespace portable_bits;
  const char* name = argc > 1 ? argv[1] : "baseline";
  if (std::strcmp(name, "all") == 0) {
    for (const char* set : {"baseline", "avx2", "avx512"}) {
      if (set_named(set) != nullptr) std::printf("%s\n", set);
    }
    return 0;
  }
  if (std::strcmp(name, "planted-overrun") == 0) return planted_overrun(), 0;
  if (std::strcmp(name, "planted-race") == 0) return planted_race(), 0;
  const fastgrad::ChunkKernels* set = set_named(name);
  if (set == nullptr) {
    std::fprintf(stderr, "'%s' is not an instruction set that can run here\n", name);
    return 2;
  }
  formulas();
  kernels(*set);
  quantizing(*set);
  normalizing(*set);
  sgd(*set);
  adamw(*set);
}
