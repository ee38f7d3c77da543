// Kernels that try the emulation itself. `selftest CASE [SEEDS]` runs one case under schedules 0 .. SEEDS with 1, 2
// and 5 resident blocks and prints a line for each: seed, resident blocks, what came out, the launch's error.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda_on_cpu.h"

constexpr unsigned kAll = 0xffffffffu;

enum class Plant { kNone, kNoBarrier, kNoSyncWarp, kGlobalOverrun, kSharedOverrun, kSameCell, kNoFence };

struct Partials {
  unsigned warp[8];
  unsigned lanes[256];
};

__device__ __forceinline__ unsigned warp_sum(unsigned x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(kAll, x, step);
  return __shfl_sync(kAll, x, 0);
}

// Each thread's result: its block's sum, plus twice its neighbour's input.
template <Plant plant>
__global__ void __launch_bounds__(256) block_sums(const unsigned* __restrict__ in, unsigned* out, unsigned* cell) {
  const unsigned thread = threadIdx.x, warp = thread / 32, warps = blockDim.x / 32;
  const size_t i = size_t{blockIdx.x} * blockDim.x + thread;
  Partials& shared = block_memory<Partials>();
  const unsigned x = __ldg(in + i);
  shared.lanes[thread] = x;
  if (plant != Plant::kNoSyncWarp) __syncwarp();
  const unsigned neighbour = shared.lanes[thread ^ 1];
  const unsigned sum = warp_sum(x);
  if (thread % 32 == 0) shared.warp[warp] = sum;
  if (plant != Plant::kNoBarrier) __syncthreads();
  unsigned total = 0;
  for (unsigned w = 0; w < warps; ++w) total += shared.warp[w];
  if (plant == Plant::kSameCell && thread == 0) *cell = blockIdx.x;
  if (plant == Plant::kSharedOverrun && thread == 0) shared.lanes[blockDim.x] = 1;
  const bool last = i + 1 == size_t{gridDim.x} * blockDim.x;
  out[i + (plant == Plant::kGlobalOverrun && last)] = total + 2 * neighbour;
}

// The last block to finish adds up what all blocks have left: the order in which they finish must not show.
struct IsLast {
  bool value;
};
template <Plant plant>
__global__ void last_block(const unsigned* in, unsigned* partials, unsigned* finished, unsigned long long* out) {
  const unsigned sum = warp_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
  IsLast& last = block_memory<IsLast>();
  if (threadIdx.x == 0) {
    __stcg(partials + blockIdx.x, sum);
    if (plant != Plant::kNoFence) __threadfence();
    last.value = atomicAdd(finished, 1u) == gridDim.x - 1;
    __threadfence();  // by the thread of the atomic, before the barrier: for the whole block
  }
  __syncthreads();
  if (!last.value) return;
  unsigned long long total = 0;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += 32) total += __ldcg(partials + b) * (b + 1ull);
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(kAll, total, step);
  if (threadIdx.x == 0) *out = total;
}

// A running sum over blocks: each takes a ticket and spins until the block with the ticket before has published.
__global__ void chained_sum(const unsigned* in, unsigned* ticket, unsigned* flags, unsigned* sums) {
  unsigned mine = 0, before = 0;
  if (threadIdx.x == 0) mine = atomicAdd(ticket, 1u);
  mine = __shfl_sync(kAll, mine, 0);
  const unsigned sum = warp_sum(in[mine * 32 + threadIdx.x]);
  if (threadIdx.x == 0) {
    if (mine > 0) {
      while (__ldcv(flags + mine - 1) == 0) __nanosleep(20);
      __threadfence();
      before = sums[mine - 1];
    }
    sums[mine] = before + sum;
    __threadfence();
    atomicExch(flags + mine, 1u);
  }
}

// Two branches with a different number of collectives, a lane that exits early, and every kind of vote.
__global__ void divergence(unsigned* out) {
  const unsigned lane = threadIdx.x % 32, even = 0x55555555u;
  unsigned* mine = out + ((blockIdx.x * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) * 4;
  if (lane % 2 == 0) {
    unsigned x = lane;
    for (int step = 2; step < 32; step *= 2) x += __shfl_xor_sync(even, x, step);
    mine[0] = x;
    mine[1] = __ballot_sync(even, lane % 4 == 0);
  } else if (lane == 31) {
    return;
  } else {
    mine[0] = __reduce_max_sync(~even & 0x7fffffffu, lane * 3);
    mine[1] = __any_sync(~even & 0x7fffffffu, lane == 5) + 2 * __all_sync(~even, lane < 29);
  }
  __syncthreads();
  mine[2] = __reduce_add_sync(kAll, lane) + __reduce_min_sync(kAll, lane + 7);
  mine[3] = static_cast<unsigned>(__shfl_up_sync(kAll, 1000ll * lane, 3, 8)) +
            static_cast<unsigned>(__shfl_down_sync(kAll, 0.5 * lane, 2, 4) * 4.0) + __syncthreads_count(lane < 3);
}

// Counts what a block finds in memory it has not written; every byte is to be 0xCB, in every block.
__global__ void poison(unsigned* out) {
  Partials& shared = block_memory<Partials>();
  const unsigned found = __syncthreads_count(shared.lanes[threadIdx.x] == 0xcbcbcbcbu);
  shared.lanes[threadIdx.x] = blockIdx.x;
  __syncthreads();
  const unsigned own = __syncthreads_count(shared.lanes[(threadIdx.x * 7 + 1) % blockDim.x] == blockIdx.x);
  if (threadIdx.x == 0) out[blockIdx.x] = found + own;
}

__global__ void arithmetic(unsigned* out) {
  const unsigned x = 0x33221100u, y = 0x778855c4u;
  const float third = __fdiv_rn(1.0f, 3.0f);
  out[0] = __byte_perm(x, y, 0xc471u) ^ __funnelshift_l(x, y, 37) ^ __funnelshift_r(x, y, 4) ^ __brev(x);
  out[1] = __umulhi(x, y) + __popc(x) + 100 * __clz(y) + 10000 * __ffs(y) + 1000000 * __clzll(1ll << 40);
  out[2] = __float_as_uint(__fadd_rn(__fmul_rn(third, third), __fsqrt_rn(2.0f)));
  out[3] = static_cast<unsigned>(__double_as_longlong(__dadd_rn(__dmul_rn(0.1, 0.1), __dsqrt_rn(2.0)))) +
           static_cast<unsigned>(__float2int_rn(3e9f)) + __float2uint_rn(2.5f);
}

// A lock that every thread takes once. A warp's lanes take it in turns.
__global__ void locked_count(unsigned* lock, unsigned* count, float* sum) {
  while (atomicCAS(lock, 0u, 1u) != 0) __nanosleep(10);
  ++*count;
  atomicExch(lock, 0u);
  atomicAdd(sum, 0.5f);
}

// Half of each warp waits for the block, the other half for the warp.
__global__ void half_barrier() {
  if (threadIdx.x % 32 < 16) __syncthreads();
  else __syncwarp();
}
__global__ void mixed_collectives() {
  if (threadIdx.x < 16) __ballot_sync(kAll, 1);
  else __any_sync(kAll, 1);
}
// Lane 0 polls for all: the collectives of the loop are no progress.
__global__ void endless_spin(const unsigned* flag) {
  for (;;) {
    unsigned value = threadIdx.x == 0 ? __ldcg(flag) : 0;
    if (__shfl_sync(kAll, value, 0)) break;
  }
}
__global__ void wrong_mask() {
  if (threadIdx.x == 35) __syncwarp(1u);
}
__global__ void trap() {
  if (blockIdx.x == 1 && threadIdx.x == 33) __trap();
  __syncthreads();
}
__global__ void failed_assertion() { assert(threadIdx.x < 34); }
__global__ void nested_launch() { launch(trap, 1, 1, nullptr); }
__global__ void misaligned(const unsigned* in, float4* out) {
  out[threadIdx.x] = __ldg(reinterpret_cast<const float4*>(in + threadIdx.x));
}

namespace {

unsigned checksum(const std::vector<unsigned>& values) {
  unsigned sum = 17;
  for (unsigned v : values) sum = (sum ^ v) * 0x01000193u;
  return sum;
}

struct Buffers {
  std::vector<unsigned> in, out, scratch, flags;
  Buffers() : in(7 * 256), out(7 * 256), scratch(64), flags(64) {
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<unsigned>(i * 2654435761u >> 24);
  }
};

template <Plant plant>
void run_block_sums(Buffers& b) {
  launch(block_sums<plant>, 7, 256, nullptr, b.in.data(), b.out.data(), b.scratch.data());
}

template <Plant plant>
void run_last_block(Buffers& b) {
  auto* total = reinterpret_cast<unsigned long long*>(b.out.data());
  launch(last_block<plant>, 50, 32, nullptr, b.in.data(), b.scratch.data(), b.flags.data(), total);
}

struct Case {
  const char* name;
  void (*run)(Buffers&);
};

const Case kCases[] = {
    {"block_sums", run_block_sums<Plant::kNone>},
    {"no_barrier", run_block_sums<Plant::kNoBarrier>},
    {"no_syncwarp", run_block_sums<Plant::kNoSyncWarp>},
    {"same_cell", run_block_sums<Plant::kSameCell>},
    {"global_overrun", run_block_sums<Plant::kGlobalOverrun>},
    {"shared_overrun", run_block_sums<Plant::kSharedOverrun>},
    {"last_block", run_last_block<Plant::kNone>},
    {"no_fence", run_last_block<Plant::kNoFence>},
    {"chained_sum",
     [](Buffers& b) {
       launch(chained_sum, 40, 32, nullptr, b.in.data(), b.scratch.data(), b.flags.data(), b.out.data());
     }},
    {"divergence", [](Buffers& b) { launch(divergence, 3, dim3(32, 2), nullptr, b.out.data()); }},
    {"poison", [](Buffers& b) { launch(poison, 7, 256, nullptr, b.out.data()); }},
    {"arithmetic", [](Buffers& b) { launch(arithmetic, 1, 1, nullptr, b.out.data()); }},
    {"locked_count",
     [](Buffers& b) {
       auto* sum = reinterpret_cast<float*>(b.out.data() + 1);
       launch(locked_count, 6, 70, nullptr, b.flags.data(), b.out.data(), sum);
     }},
    {"half_barrier", [](Buffers&) { launch(half_barrier, 2, 64, nullptr); }},
    {"mixed_collectives", [](Buffers&) { launch(mixed_collectives, 1, 32, nullptr); }},
    {"endless_spin", [](Buffers& b) { launch(endless_spin, 4, 32, nullptr, b.flags.data()); }},
    {"wrong_mask", [](Buffers&) { launch(wrong_mask, 1, 64, nullptr); }},
    {"trap", [](Buffers&) { launch(trap, 3, 64, nullptr); }},
    {"failed_assertion", [](Buffers&) { launch(failed_assertion, 1, 64, nullptr); }},
    {"nested_launch", [](Buffers&) { launch(nested_launch, 1, 1, nullptr); }},
    {"misaligned",
     [](Buffers& b) { launch(misaligned, 1, 32, nullptr, b.in.data(), reinterpret_cast<float4*>(b.out.data())); }},
    {"planned_failure",
     [](Buffers& b) {
       cuda_on_cpu::fail_next_launch(cudaErrorMemoryAllocation);
       run_block_sums<Plant::kNone>(b);
     }},
    {"too_many_threads", [](Buffers&) { launch(trap, 1, dim3(33, 32), nullptr); }},
};

void print_results(const char* name, const Buffers& b) {
  if (strcmp(name, "block_sums") == 0) {
    for (size_t block = 0; block < 7; ++block) {
      unsigned sum = 0;
      for (size_t i = 0; i < 256; ++i) sum += b.in[block * 256 + i];
      for (size_t i = 0; i < 256; ++i) {
        const size_t at = block * 256 + i;
        if (b.out[at] != sum + 2 * b.in[at ^ 1]) printf("wrong ");
      }
    }
  }
  printf("%08x %u %u %u %u", checksum(b.out), b.out[0], b.out[1], b.out[2], b.out[3]);
}

}  // namespace

int main(int count, char** arguments) {
  const int seeds = count > 2 ? atoi(arguments[2]) : 0;
  cuda_on_cpu::set_spin_limit(1000);
  for (const Case& test : kCases) {
    if (count < 2 || strcmp(test.name, arguments[1]) != 0) continue;
    for (int seed = 0; seed <= seeds; ++seed) {
      for (int resident : {1, 2, 5}) {
        cuda_on_cpu::set_schedule(static_cast<uint64_t>(seed));
        cuda_on_cpu::set_resident_blocks(resident);
        Buffers buffers;
        test.run(buffers);
        printf("%d %d ", seed, resident);
        print_results(test.name, buffers);
        printf(" %s\n", cudaGetErrorName(cudaGetLastError()));
      }
    }
    return 0;
  }
  fprintf(stderr, "usage: selftest CASE [SEEDS]\n");
  return 2;
}
