// CUDA for g++: with this header a kernel's own .cu text compiles as C++ and runs on the CPU, one fiber per thread,
// with CUDA's rules for warps, blocks and memory. It is there to test kernels bit for bit, not to be fast.
//
// Not emulated: dynamic or plain `__shared__` memory (use block_memory<T>()), inline PTX, textures, cooperative
// groups, streams that overlap, weak memory order (for missing fences see device_functions.h). An endless loop that
// makes none of the calls below cannot be stopped.
#pragma once

// libstdc++ spells attributes with __noinline__: its headers must be read before that becomes a macro.
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "intrinsics.h"
#include "runtime_api.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

namespace cuda_on_cpu {

// What a test sets.

struct Device {
  int count = 1;
  int multiprocessors = 2;
  int major = 9;
  int minor = 0;
  int driver_version = 13000;
  int runtime_version = 13000;
  int l2_bytes = 50 << 20;
  int shared_bytes_per_block = 48 << 10;
  int shared_bytes_per_multiprocessor = 228 << 10;
};

struct Statistics {
  uint64_t launches = 0, blocks = 0, threads = 0, collectives = 0, barriers = 0, switches = 0;
};

// 0: blocks, warps and lanes run in index order. Any other seed is another order, drawn anew at every scheduling
// point: the results of a correct kernel do not depend on it.
void set_schedule(uint64_t seed);
// How many blocks run interleaved. A kernel whose blocks wait for each other needs all of them resident.
void set_resident_blocks(int blocks);
// After how many rounds, in which every thread that can run only waited, a spin counts as endless.
void set_spin_limit(uint64_t rounds);
void set_device(const Device& device);
const Device& device();
// The next launch does not run, it only sets this error.
void fail_next_launch(cudaError_t error);
Statistics statistics();
void reset_statistics();

// What kernels see.

struct Thread {
  uint3 index;
  uint3 block;
  unsigned lane;
};
extern Thread* current;  // null outside kernels
extern dim3 block_shape, grid_shape;

enum class Collective : uint8_t {
  kSyncWarp,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kAny,
  kAll,
  kBallot,
  kAdd,
  kMin,
  kMax,
  kMinSigned,
  kMaxSigned,
  kAnd,
  kOr,
  kXor,
};

uint64_t collective(Collective kind, unsigned mask, uint64_t value, unsigned source);
int block_barrier(int predicate);  // how many threads came with a predicate that is not zero
void* block_memory(const void* key, size_t bytes, size_t alignment);
void sleep();                            // lets every other thread run
void poll();                             // a read that a spin may consist of
void atomic_point(const void* address);  // before an atomic access: the order of threads matters here
void fence();
void note_progress();  // what a spin may wait for has happened
[[noreturn]] void fail(cudaError_t error, const char* format, ...) __attribute__((format(printf, 2, 3)));
void run(dim3 grid, dim3 block, void (*call)(void*), void* closure);

}  // namespace cuda_on_cpu

#define threadIdx (static_cast<const uint3&>(cuda_on_cpu::current->index))
#define blockIdx (static_cast<const uint3&>(cuda_on_cpu::current->block))
#define blockDim (static_cast<const dim3&>(cuda_on_cpu::block_shape))
#define gridDim (static_cast<const dim3&>(cuda_on_cpu::grid_shape))
constexpr int warpSize = 32;

#undef assert
#define assert(condition) \
  ((condition) ? void() : cuda_on_cpu::fail(cudaErrorAssert, "%s:%d: `%s` failed", __FILE__, __LINE__, #condition))

#include "device_functions.h"

// The block's own T: allocated with exactly its size, filled with 0xCB, and gone with the block.
template <class T>
T& block_memory() {
  static_assert(std::is_trivially_default_constructible_v<T>, "shared memory is not constructed");
  static_assert(sizeof(T) <= (48 << 10), "more than a block's static shared memory");
  static char key;
  return *static_cast<T*>(cuda_on_cpu::block_memory(&key, sizeof(T), alignof(T)));
}

// Runs the grid before it returns. What went wrong is left for cudaGetLastError.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t, A... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> args;
  } call{kernel, {args...}};
  const auto run_thread = [](void* closure) {
    const Call* call = static_cast<const Call*>(closure);
    std::apply(call->kernel, call->args);
  };
  cuda_on_cpu::run(grid, block, run_thread, &call);
}
