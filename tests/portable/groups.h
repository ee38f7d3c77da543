// The groups of results that are hashed; each prints its lines with `report`.
#pragma once

#include "cpu/kernels.h"
#include "data.h"

namespace portable_bits {

// Prints "name hash". A name may be reported once.
void report(const char* name, const Digest& digest);

void formulas();                                   // the scalar formulas of csrc/numerics, compiled for this program
void kernels(const fastgrad::ChunkKernels& set);   // noise and rounding of one instruction set
void quantizing(const fastgrad::ChunkKernels& set);
void normalizing(const fastgrad::ChunkKernels& set);
void sgd(const fastgrad::ChunkKernels& set);
void adamw(const fastgrad::ChunkKernels& set);

constexpr const char* kFormats[] = {"fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8", "int4"};
constexpr const char* kRoundings[] = {"stochastic", "nearest", "truncate"};

// Runs the same sweep with one thread and with three, each on fresh memory; both must give the same digest.
template <class Run>
Digest on_threads(const Run& run);

[[noreturn]] void threads_differ(uint64_t one, uint64_t three);

template <class Run>
Digest on_threads(const Run& run) {
  Digest one, three;
  run(1, one);
  run(3, three);
  if (one.value != three.value) threads_differ(one.value, three.value);
  return one;
}

}  // namespace portable_bits
