// A running grid: its threads, warps and blocks, and who waits where. Included by cuda_on_cpu.cpp alone.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "cuda_on_cpu.h"
#include "fiber.h"

namespace cuda_on_cpu {

constexpr int kMaxBlockMemories = 16;

struct Warp;
struct Block;

struct Lane : Thread {
  Context context;
  Warp* warp = nullptr;
  unsigned polls = 0;
  bool fenced = false;      // since the last barrier: its atomics release
  unsigned seen_count = 0;  // atomics since the last fence, which will acquire them
  const void* seen[8] = {};
};

// A collective that some lanes have reached and others have not.
struct Open {
  Collective kind;
  uint32_t mask, arrived;
  int* token;
};

struct Warp {
  uint32_t live, runnable, asleep, at_barrier;
  int open_count;
  unsigned slot, number;  // among all resident warps; in its block
  Block* block;
  Lane* lanes;
  uint8_t source[32];
  uint64_t value[32], result[32];
  Open open[32];
};

struct Memory {
  const void* key;
  void* data;
};

struct Block {
  uint3 index;
  bool resident = false;
  unsigned live, at_barrier;
  int predicates, predicates_of_last;
  int* barrier_token;
  int memory_count = 0;
  size_t memory_bytes = 0;
  Memory memories[kMaxBlockMemories];
  Warp* warps = nullptr;
  Lane* lanes = nullptr;
};

// What fibers touch are plain arrays: the functions of a std::vector would be checked by ThreadSanitizer.
struct Grid {
  void (*call)(void*) = nullptr;
  void* closure = nullptr;
  Context launcher;
  unsigned resident = 0;  // how many blocks there is a place for
  unsigned threads_per_block = 0, warps_per_block = 0;
  unsigned warp_count = 0, ready_words = 0;
  std::unique_ptr<Block[]> blocks;
  std::unique_ptr<Warp[]> warp_storage;
  std::unique_ptr<Lane[]> lane_storage;
  std::unique_ptr<uint64_t[]> ready_storage;
  Warp* warps = nullptr;
  uint64_t* ready = nullptr;  // a bit for each warp: it has a lane that can run
  Block* finished = nullptr;  // the block whose last thread has just exited
  uint64_t asleep = 0;        // lanes
  bool changed = false;       // since the last round of waiting threads something happened
  char done_token = 0;
  cudaError_t error = cudaSuccess;
  std::string message;
};

UNCHECKED inline void build(Grid* grid, unsigned resident) {
  const unsigned threads = block_shape.x * block_shape.y * block_shape.z, warps = (threads + 31) / 32;
  grid->resident = resident;
  grid->threads_per_block = threads;
  grid->warps_per_block = warps;
  grid->warp_count = resident * warps;
  grid->ready_words = (grid->warp_count + 63) / 64;
  grid->blocks = std::make_unique<Block[]>(resident);
  grid->warp_storage = std::make_unique<Warp[]>(grid->warp_count);
  grid->lane_storage = std::make_unique<Lane[]>(size_t{resident} * threads);
  grid->ready_storage = std::make_unique<uint64_t[]>(grid->ready_words);
  grid->warps = grid->warp_storage.get();
  grid->ready = grid->ready_storage.get();
  for (unsigned b = 0; b < resident; ++b) {
    Block* block = &grid->blocks[b];
    block->warps = grid->warps + size_t{b} * warps;
    block->lanes = grid->lane_storage.get() + size_t{b} * threads;
    for (unsigned i = 0; i < warps; ++i) {
      block->warps[i].slot = b * warps + i;
      block->warps[i].number = i;
      block->warps[i].block = block;
      block->warps[i].lanes = block->lanes + i * 32;
    }
    for (unsigned i = 0; i < threads; ++i) {
      Lane* lane = block->lanes + i;
      lane->index = {i % block_shape.x, i / block_shape.x % block_shape.y, i / (block_shape.x * block_shape.y)};
      lane->lane = i % 32;
      lane->warp = block->warps + i / 32;
    }
  }
}

inline std::string format_index(uint3 index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

inline std::string hexadecimal(uint32_t bits) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", bits);
  return text;
}

}  // namespace cuda_on_cpu
