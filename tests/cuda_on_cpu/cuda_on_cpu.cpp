// The scheduler: runs a grid's threads as fibers of the launching thread, lets collectives complete as the lanes
// arrive, and says who waits for what when nobody can go on.
#include "cuda_on_cpu.h"

#include <algorithm>
#include <cstdarg>
#include <exception>

#include "fiber.h"
#include "grid.h"
#include "runtime_state.h"

namespace cuda_on_cpu {

Thread* current = nullptr;
dim3 block_shape, grid_shape;

namespace {

constexpr unsigned kPollsBeforeSleep = 64;
constexpr uint64_t kPoison = 0xcbcbcbcbcbcbcbcbull;

Grid* grid = nullptr;
Stacks stacks;
uint64_t random_state = 0;  // 0: index order

UNCHECKED inline Lane* self() { return static_cast<Lane*>(current); }
UNCHECKED inline uint32_t bit_of(const Lane* lane) { return 1u << lane->lane; }

UNCHECKED inline uint64_t draw() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state * 0x2545f4914f6cdd1dull >> 16;
}

UNCHECKED inline void set_runnable(Warp* warp, uint32_t lanes) {
  warp->runnable |= lanes;
  grid->ready[warp->slot / 64] |= 1ull << warp->slot % 64;
}
UNCHECKED inline void clear_runnable(Warp* warp, uint32_t lanes) {
  warp->runnable &= ~lanes;
  if (!warp->runnable) grid->ready[warp->slot / 64] &= ~(1ull << warp->slot % 64);
}

// The first ready warp from `slot` on, around the end.
UNCHECKED Warp* ready_warp(unsigned slot) {
  const unsigned words = grid->ready_words;
  unsigned word = slot / 64;
  uint64_t bits = grid->ready[word] & ~0ull << slot % 64;
  for (unsigned i = 0; i <= words; ++i) {
    if (bits) return grid->warps + word * 64 + __builtin_ctzll(bits);
    word = word + 1 == words ? 0 : word + 1;
    bits = grid->ready[word];
  }
  return nullptr;
}

// Who runs next: in index order the rest of this warp, then the next warp; otherwise anyone, mostly of this warp.
UNCHECKED Lane* choose(const Lane* from) {
  Warp* warp = from ? from->warp : grid->warps;
  uint32_t rotation = from ? from->lane + 1 : 0;
  if (random_state) {
    const uint64_t random = draw();
    rotation = static_cast<uint32_t>(random & 31);
    if (!warp->runnable || !from || (random >> 5 & 3) == 0) {
      warp = ready_warp(static_cast<unsigned>((random >> 8) % grid->warp_count));
      if (!warp) return nullptr;
    }
  } else if (!warp->runnable) {
    warp = ready_warp(warp->slot + 1 == grid->warp_count ? 0 : warp->slot + 1);
    if (!warp) return nullptr;
    rotation = 0;
  }
  const uint32_t ahead = rotation < 32 ? warp->runnable >> rotation : 0;
  const int lane = ahead ? static_cast<int>(rotation) + __builtin_ctz(ahead) : __builtin_ctz(warp->runnable);
  return warp->lanes + lane;
}

// Leaves `me` for another lane, or for the launcher where there is none.
UNCHECKED void leave_cpu(Lane* me, bool dying = false) {
  Lane* next = grid->finished || grid->error ? nullptr : choose(me);
  if (next == me) return;
  ++totals.switches;
  current = next;
  switch_context(me->context, next ? next->context : grid->launcher, dying);
}

UNCHECKED uint64_t combine(Collective kind, const Warp* warp, uint32_t lanes) {
  uint32_t first = static_cast<uint32_t>(warp->value[__builtin_ctz(lanes)]), votes = 0, sum = 0;
  uint32_t low = first, high = first, both = ~0u, any = 0, odd = 0;
  int32_t least = static_cast<int32_t>(first), most = least;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const uint32_t value = static_cast<uint32_t>(warp->value[lane]);
    if (value) votes |= 1u << lane;
    sum += value;
    low = value < low ? value : low;
    high = value > high ? value : high;
    least = static_cast<int32_t>(value) < least ? static_cast<int32_t>(value) : least;
    most = static_cast<int32_t>(value) > most ? static_cast<int32_t>(value) : most;
    both &= value;
    any |= value;
    odd ^= value;
  }
  switch (kind) {
    case Collective::kAny: return votes != 0;
    case Collective::kAll: return votes == lanes;
    case Collective::kBallot: return votes;
    case Collective::kAdd: return sum;
    case Collective::kMin: return low;
    case Collective::kMax: return high;
    case Collective::kMinSigned: return static_cast<uint32_t>(least);
    case Collective::kMaxSigned: return static_cast<uint32_t>(most);
    case Collective::kAnd: return both;
    case Collective::kOr: return any;
    case Collective::kXor: return odd;
    default: return 0;
  }
}

// All results are written here: a lane that runs ahead may bring new values before the others have read.
UNCHECKED void complete(Warp* warp, Open* open) {
  const uint32_t lanes = open->arrived;
  ++totals.collectives;
  if (open->kind >= Collective::kShuffle && open->kind <= Collective::kShuffleXor) {
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest), source = warp->source[lane];
      warp->result[lane] = lanes >> source & 1u ? warp->value[source] : kPoison;
    }
  } else if (open->kind != Collective::kSyncWarp) {
    const uint64_t result = combine(open->kind, warp, lanes);
    for (uint32_t rest = lanes; rest; rest &= rest - 1) warp->result[__builtin_ctz(rest)] = result;
  }
  set_runnable(warp, lanes);
  *open = warp->open[--warp->open_count];
}

UNCHECKED void complete_barrier(Block* block) {
  ++totals.barriers;
  for (unsigned i = 0; i < grid->warps_per_block; ++i) {
    Warp* warp = block->warps + i;
    if (warp->at_barrier) set_runnable(warp, warp->at_barrier);
    warp->at_barrier = 0;
  }
  block->at_barrier = 0;
  block->predicates_of_last = block->predicates;
  block->predicates = 0;
  block->barrier_token = nullptr;
}

UNCHECKED void free_memories(Block* block) {
  for (int i = 0; i < block->memory_count; ++i) free(block->memories[i].data);
  block->memory_count = 0;
  block->memory_bytes = 0;
}

// Who had waited for this lane goes on without it. The block's memory is freed by its last thread and not by the
// launcher, which would order this block before those that start later.
UNCHECKED void exit_lane(Lane* me) {
  Warp* warp = me->warp;
  Block* block = warp->block;
  warp->live &= ~bit_of(me);
  clear_runnable(warp, bit_of(me));
  for (int i = warp->open_count - 1; i >= 0; --i) {
    if (warp->open[i].arrived == (warp->open[i].mask & warp->live)) complete(warp, &warp->open[i]);
  }
  grid->changed = true;
  happens_before(block);
  happens_before(&grid->done_token);
  if (--block->live == 0) {
    happens_after(block);
    free_memories(block);
    grid->finished = block;
  } else if (block->at_barrier == block->live) {
    complete_barrier(block);
  }
  leave_cpu(me, true);
}

UNCHECKED void lane_main() {
  arrive_first_time();
  try {
    grid->call(grid->closure);
  } catch (const std::exception& error) {
    fail(cudaErrorLaunchFailure, "an exception left the kernel: %s", error.what());
  }
  exit_lane(self());
}

UNCHECKED void start_block(Block* block, uint3 index) {
  block->index = index;
  block->resident = true;
  block->live = grid->threads_per_block;
  block->at_barrier = 0;
  block->predicates = block->predicates_of_last = 0;
  block->barrier_token = nullptr;
  for (unsigned i = 0; i < grid->threads_per_block; ++i) {
    Lane* lane = block->lanes + i;
    lane->block = index;
    lane->polls = lane->seen_count = 0;
    lane->fenced = false;
    prepare(lane->context, lane->context.stack ? lane->context.stack : stacks.take(), i, lane_main);
  }
  for (unsigned i = 0; i < grid->warps_per_block; ++i) {
    Warp* warp = block->warps + i;
    const unsigned threads = grid->threads_per_block - i * 32;
    warp->live = threads >= 32 ? ~0u : (1u << threads) - 1;
    warp->runnable = warp->asleep = warp->at_barrier = 0;
    warp->open_count = 0;
    set_runnable(warp, warp->live);
  }
  ++totals.blocks;
  totals.threads += block->live;
  grid->changed = true;
}

UNCHECKED void retire_block(Block* block) {
  block->resident = false;
  for (unsigned i = 0; i < grid->threads_per_block; ++i) {
    Context& context = block->lanes[i].context;
    release(context);
#ifdef __SANITIZE_THREAD__
    stacks.give(context.stack);
    context.stack = nullptr;
#endif
  }
}

// After an error.
UNCHECKED void abandon_block(Block* block) {
  for (unsigned i = 0; i < grid->threads_per_block; ++i) {
    happens_before_for(block->lanes[i].context, &grid->done_token);
  }
  happens_after(&grid->done_token);
  free_memories(block);
  retire_block(block);
}

// All threads that can run have said that they wait: give each another turn, unless that has long led nowhere.
UNCHECKED bool wake_sleepers(uint64_t& idle_rounds) {
  if (grid->asleep == 0) return false;
  idle_rounds = grid->changed ? 0 : idle_rounds + 1;
  grid->changed = false;
  if (idle_rounds > options.spin_limit) return false;
  for (unsigned i = 0; i < grid->warp_count; ++i) {
    Warp* warp = grid->warps + i;
    if (warp->asleep) set_runnable(warp, warp->asleep);
    warp->asleep = 0;
  }
  grid->asleep = 0;
  return true;
}

// Who waits for what, a line for each group of lanes.
std::string describe_deadlock(uint64_t blocks_not_started) {
  static const char* const kNames[] = {
      "__syncwarp",        "__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",
      "__shfl_xor_sync",   "__any_sync",        "__all_sync",        "__ballot_sync",
      "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync",
      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync"};
  std::string text = grid->asleep ? "endless spin: no thread makes progress" : "deadlock: no thread can run";
  int lines = 0;
  auto line = [&](const Warp& warp, uint32_t lanes, const std::string& what) {
    if (++lines > 12) return;
    text += "\n  block " + format_index(warp.block->index) + " warp " + std::to_string(warp.number) + " lanes " +
            hexadecimal(lanes) + " (first: lane " + std::to_string(__builtin_ctz(lanes)) + ") " + what;
  };
  for (unsigned i = 0; i < grid->warp_count; ++i) {
    const Warp& warp = grid->warps[i];
    const Block& block = *warp.block;
    if (!block.resident) continue;
    if (warp.at_barrier) {
      line(warp, warp.at_barrier,
           "wait in __syncthreads, which " + std::to_string(block.at_barrier) + " of " + std::to_string(block.live) +
               " running threads have reached");
    }
    for (int k = 0; k < warp.open_count; ++k) {
      const Open& open = warp.open[k];
      line(warp, open.arrived,
           std::string("wait in ") + kNames[static_cast<int>(open.kind)] + "(" + hexadecimal(open.mask) +
               ") for lanes " + hexadecimal(open.mask & warp.live & ~open.arrived));
    }
    if (warp.asleep) line(warp, warp.asleep, "spin");
  }
  if (lines > 12) text += "\n  and " + std::to_string(lines - 12) + " more";
  if (blocks_not_started) text += "\n  " + std::to_string(blocks_not_started) + " blocks wait for a place to run in";
  return text;
}

UNCHECKED void schedule(const std::vector<uint64_t>& order) {
  size_t started = 0, retired = 0;
  uint64_t idle_rounds = 0;
  while (retired < order.size()) {
    for (unsigned b = 0; b < grid->resident && started < order.size(); ++b) {
      Block* block = &grid->blocks[b];
      if (block->resident) continue;
      const uint64_t i = order[started++], xy = uint64_t{grid_shape.x} * grid_shape.y;
      start_block(block, {static_cast<unsigned>(i % grid_shape.x),
                          static_cast<unsigned>(i / grid_shape.x % grid_shape.y), static_cast<unsigned>(i / xy)});
    }
    Lane* next = choose(nullptr);
    if (next) {
      current = next;
      switch_context(grid->launcher, next->context);
      current = nullptr;
    } else if (!wake_sleepers(idle_rounds)) {
      grid->error = cudaErrorLaunchTimeout;
      grid->message = describe_deadlock(order.size() - started);
    }
    if (grid->error) return;
    if (grid->finished) {
      retire_block(grid->finished);
      grid->finished = nullptr;
      ++retired;
    }
  }
}

}  // namespace

UNCHECKED uint64_t collective(Collective kind, unsigned mask, uint64_t value, unsigned source) {
  Lane* me = self();
  Warp* warp = me->warp;
  const uint32_t mine = bit_of(me);
  if (!(mask & mine)) fail(cudaErrorLaunchFailure, "a collective with mask 0x%08x that leaves its caller out", mask);
  Open* open = warp->open;
  Open* const end = open + warp->open_count;
  while (open != end && (open->kind != kind || open->mask != mask)) ++open;
  if (open == end) {
    *open = {kind, mask, 0, nullptr};
    ++warp->open_count;
  }
  warp->value[me->lane] = value;
  warp->source[me->lane] = static_cast<uint8_t>(source & 31);
  open->arrived |= mine;
  arrive_at(open->token);
  int* const token = open->token;
  if (open->arrived == (mask & warp->live)) {
    complete(warp, open);
    if (random_state) leave_cpu(me);
  } else {
    clear_runnable(warp, mine);
    leave_cpu(me);
  }
  leave(token);
  return warp->result[me->lane];
}

UNCHECKED int block_barrier(int predicate) {
  Lane* me = self();
  Warp* warp = me->warp;
  Block* block = warp->block;
  block->predicates += predicate != 0;
  arrive_at(block->barrier_token);
  int* const token = block->barrier_token;
  warp->at_barrier |= bit_of(me);
  clear_runnable(warp, bit_of(me));
  if (++block->at_barrier == block->live) {
    complete_barrier(block);
    if (random_state) leave_cpu(me);
  } else {
    leave_cpu(me);
  }
  leave(token);
  me->fenced = false;  // what the others did before the barrier was not covered
  return block->predicates_of_last;
}

// The malloc and the poison must not look like accesses of the thread that happens to come first.
UNCHECKED void* block_memory(const void* key, size_t bytes, size_t alignment) {
  Block* block = self()->warp->block;
  for (int i = 0; i < block->memory_count; ++i) {
    if (block->memories[i].key == key) return block->memories[i].data;
  }
  block->memory_bytes += bytes;
  if (block->memory_count == kMaxBlockMemories || block->memory_bytes > 48 << 10) {
    fail(cudaErrorLaunchOutOfResources, "%zu bytes of shared memory in one block", block->memory_bytes);
  }
  void* data = nullptr;
  {
    const IgnoreAccesses ignore;
    if (posix_memalign(&data, std::max<size_t>(alignment, 16), bytes) != 0) {
      fail(cudaErrorMemoryAllocation, "no memory for shared memory");
    }
    volatile auto* raw = static_cast<volatile unsigned char*>(data);
    for (size_t i = 0; i < bytes; ++i) raw[i] = 0xcb;
  }
  block->memories[block->memory_count++] = {key, data};
  return data;
}

UNCHECKED void sleep() {
  Lane* me = self();
  me->polls = 0;
  if (!random_state || (draw() & 1)) {
    clear_runnable(me->warp, bit_of(me));
    me->warp->asleep |= bit_of(me);
    ++grid->asleep;
  }
  leave_cpu(me);
}

UNCHECKED void poll() {
  if (current && ++self()->polls >= kPollsBeforeSleep) sleep();
}

UNCHECKED void atomic_point(const void* address) {
  if (!current) return;
  if (random_state && (draw() & 3) == 0) leave_cpu(self());
  poll();
#if defined(CUDA_ON_CPU_STRICT_FENCES) && defined(__SANITIZE_THREAD__)
  Lane* me = self();
  if (me->fenced) happens_before(const_cast<void*>(address));
  if (me->seen_count == 0 || me->seen[(me->seen_count - 1) % 8] != address) me->seen[me->seen_count++ % 8] = address;
#endif
  (void)address;
}

// A fence before an atomic makes it release, a fence after it makes it acquire.
UNCHECKED void fence() {
  if (!current) return;
  Lane* me = self();
  for (unsigned i = 0; i < std::min(me->seen_count, 8u); ++i) happens_after(const_cast<void*>(me->seen[i]));
  me->seen_count = 0;
  me->fenced = true;
  if (random_state && (draw() & 3) == 0) leave_cpu(me);
}

UNCHECKED void note_progress() {
  if (current) grid->changed = true;
}

UNCHECKED void fail(cudaError_t error, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (!current) {
    fprintf(stderr, "%s\n", text);
    abort();
  }
  Lane* me = self();
  grid->error = error;
  grid->message = "block " + format_index(me->block) + " warp " + std::to_string(me->warp->number) + " lane " +
                  std::to_string(me->lane) + ": " + text;
  leave_cpu(me, true);
  abort();
}

void run(dim3 shape, dim3 block, void (*call)(void*), void* closure) {
  if (launching) fail(cudaErrorNotSupported, "a launch from a kernel");
  const std::lock_guard<std::mutex> lock(launch_mutex);
  if (!may_launch(shape, block)) return;
  launching = true;
  Grid running;
  grid = &running;
  grid_shape = shape;
  block_shape = block;
  running.call = call;
  running.closure = closure;
  adopt_current(running.launcher);

  random_state = options.seed ? options.seed * 0x9e3779b97f4a7c15ull | 1 : 0;
  std::vector<uint64_t> order(uint64_t{shape.x} * shape.y * shape.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (random_state) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
  }
  build(grid, static_cast<unsigned>(std::min<uint64_t>(options.resident_blocks, order.size())));
  ++totals.launches;
  schedule(order);

  for (unsigned i = 0; i < running.resident; ++i) {
    if (running.blocks[i].resident) abandon_block(&running.blocks[i]);
  }
  happens_after(&running.done_token);
  if (running.error) set_error(running.error, running.message);
  for (unsigned i = 0; i < running.resident * running.threads_per_block; ++i) {
    if (running.lane_storage[i].context.stack) stacks.give(running.lane_storage[i].context.stack);
  }
  running.lane_storage.reset();
  grid = nullptr;
  launching = false;
}

}  // namespace cuda_on_cpu

long long clock64() { return static_cast<long long>(cuda_on_cpu::totals.switches++); }
