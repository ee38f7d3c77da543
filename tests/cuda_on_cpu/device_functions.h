// The functions that only kernels call: barriers, shuffles and votes, atomics, loads and stores with cache hints.
#pragma once

#define CUDA_ON_CPU_ALL 0xffffffffu

inline void __syncthreads() { cuda_on_cpu::block_barrier(0); }
inline int __syncthreads_count(int predicate) { return cuda_on_cpu::block_barrier(predicate); }
inline int __syncthreads_or(int predicate) { return cuda_on_cpu::block_barrier(predicate) != 0; }
inline int __syncthreads_and(int predicate) { return cuda_on_cpu::block_barrier(!predicate) == 0; }
inline void __syncwarp(unsigned mask = CUDA_ON_CPU_ALL) {
  cuda_on_cpu::collective(cuda_on_cpu::Collective::kSyncWarp, mask, 0, 0);
}

namespace cuda_on_cpu {

template <class T>
inline T shuffle(Collective kind, unsigned mask, T value, unsigned source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles 32 and 64 bits");
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  return bits_as<T>(static_cast<Bits>(collective(kind, mask, bits_as<Bits>(value), source)));
}

}  // namespace cuda_on_cpu

// A source outside the lane's segment of `width` lanes gives the lane its own value back.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = static_cast<int>(cuda_on_cpu::current->lane), start = lane & -width;
  return cuda_on_cpu::shuffle(cuda_on_cpu::Collective::kShuffle, mask, value, start | (source & (width - 1)));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = static_cast<int>(cuda_on_cpu::current->lane), source = lane - static_cast<int>(delta);
  return cuda_on_cpu::shuffle(cuda_on_cpu::Collective::kShuffleUp, mask, value,
                              source < (lane & -width) ? lane : source);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = static_cast<int>(cuda_on_cpu::current->lane), source = lane + static_cast<int>(delta);
  return cuda_on_cpu::shuffle(cuda_on_cpu::Collective::kShuffleDown, mask, value,
                              source >= (lane & -width) + width ? lane : source);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = static_cast<int>(cuda_on_cpu::current->lane), source = lane ^ bits;
  return cuda_on_cpu::shuffle(cuda_on_cpu::Collective::kShuffleXor, mask, value,
                              source >= (lane & -width) + width ? lane : source);
}

#define CUDA_ON_CPU_COLLECTIVE(result, name, argument, kind)                                            \
  inline result name(unsigned mask, argument value) {                                                   \
    return static_cast<result>(                                                                         \
        cuda_on_cpu::collective(cuda_on_cpu::Collective::kind, mask, static_cast<unsigned>(value), 0)); \
  }
CUDA_ON_CPU_COLLECTIVE(int, __any_sync, int, kAny)
CUDA_ON_CPU_COLLECTIVE(int, __all_sync, int, kAll)
CUDA_ON_CPU_COLLECTIVE(unsigned, __ballot_sync, int, kBallot)
CUDA_ON_CPU_COLLECTIVE(unsigned, __reduce_add_sync, unsigned, kAdd)
CUDA_ON_CPU_COLLECTIVE(unsigned, __reduce_min_sync, unsigned, kMin)
CUDA_ON_CPU_COLLECTIVE(unsigned, __reduce_max_sync, unsigned, kMax)
CUDA_ON_CPU_COLLECTIVE(int, __reduce_add_sync, int, kAdd)
CUDA_ON_CPU_COLLECTIVE(int, __reduce_min_sync, int, kMinSigned)
CUDA_ON_CPU_COLLECTIVE(int, __reduce_max_sync, int, kMaxSigned)
CUDA_ON_CPU_COLLECTIVE(unsigned, __reduce_and_sync, unsigned, kAnd)
CUDA_ON_CPU_COLLECTIVE(unsigned, __reduce_or_sync, unsigned, kOr)
CUDA_ON_CPU_COLLECTIVE(unsigned, __reduce_xor_sync, unsigned, kXor)
#undef CUDA_ON_CPU_COLLECTIVE
#undef CUDA_ON_CPU_ALL

namespace cuda_on_cpu {

template <class T>
inline void check_alignment(const T* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address);
  if (bits % alignof(T) != 0) {
    fail(cudaErrorMisalignedAddress, "address 0x%llx is not a multiple of %zu", static_cast<unsigned long long>(bits),
         alignof(T));
  }
}

// Atomics order memory only together with fences. ThreadSanitizer is told so with CUDA_ON_CPU_STRICT_FENCES; without
// it, every atomic acquires and releases, and a missing fence goes unseen.
#ifdef CUDA_ON_CPU_STRICT_FENCES
constexpr int kAcquire = __ATOMIC_RELAXED, kRelease = __ATOMIC_RELAXED, kAcquireRelease = __ATOMIC_RELAXED;
#else
constexpr int kAcquire = __ATOMIC_ACQUIRE, kRelease = __ATOMIC_RELEASE, kAcquireRelease = __ATOMIC_ACQ_REL;
#endif

// The value before; `next` computes the value after.
template <class T, class Next>
inline T atomic_update(T* address, Next next) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  check_alignment(address);
  atomic_point(address);
  auto* word = reinterpret_cast<Bits*>(address);
  Bits before = __atomic_load_n(word, kAcquire), after;
  do {
    after = bits_as<Bits>(static_cast<T>(next(bits_as<T>(before))));
  } while (!__atomic_compare_exchange_n(word, &before, after, false, kAcquireRelease, kAcquire));
  if (before != after) note_progress();
  return bits_as<T>(before);
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMIC(type, name, expression)                                                \
  inline type name(type* address, type value) {                                                   \
    return cuda_on_cpu::atomic_update(address, [value](type old) -> type { return expression; }); \
  }
#define CUDA_ON_CPU_INTEGER_ATOMICS(type)                                                               \
  CUDA_ON_CPU_ATOMIC(type, atomicMax, old < value ? value : old)                                        \
  CUDA_ON_CPU_ATOMIC(type, atomicMin, value < old ? value : old)                                        \
  CUDA_ON_CPU_ATOMIC(type, atomicExch, (static_cast<void>(old), value))                                 \
  CUDA_ON_CPU_ATOMIC(type, atomicOr, old | value)                                                       \
  CUDA_ON_CPU_ATOMIC(type, atomicAnd, old& value)                                                       \
  CUDA_ON_CPU_ATOMIC(type, atomicXor, old ^ value)                                                      \
  inline type atomicCAS(type* address, type compare, type value) {                                      \
    return cuda_on_cpu::atomic_update(address, [=](type old) { return old == compare ? value : old; }); \
  }
CUDA_ON_CPU_INTEGER_ATOMICS(int)
CUDA_ON_CPU_INTEGER_ATOMICS(unsigned)
CUDA_ON_CPU_INTEGER_ATOMICS(unsigned long long)
CUDA_ON_CPU_ATOMIC(int, atomicAdd, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
CUDA_ON_CPU_ATOMIC(int, atomicSub, static_cast<int>(static_cast<unsigned>(old) - static_cast<unsigned>(value)))
CUDA_ON_CPU_ATOMIC(unsigned, atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(unsigned, atomicSub, old - value)
CUDA_ON_CPU_ATOMIC(unsigned, atomicInc, old >= value ? 0u : old + 1u)
CUDA_ON_CPU_ATOMIC(unsigned long long, atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(float, atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(double, atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(float, atomicExch, (static_cast<void>(old), value))
#undef CUDA_ON_CPU_INTEGER_ATOMICS
#undef CUDA_ON_CPU_ATOMIC

inline void __threadfence_block() { cuda_on_cpu::fence(); }
inline void __threadfence() { cuda_on_cpu::fence(); }
inline void __threadfence_system() { cuda_on_cpu::fence(); }
inline void __nanosleep(unsigned) { cuda_on_cpu::sleep(); }
[[noreturn]] inline void __trap() { cuda_on_cpu::fail(cudaErrorLaunchFailure, "__trap()"); }
long long clock64();

namespace cuda_on_cpu {

template <class T>
inline T load(const T* address) {
  check_alignment(address);
  return *address;
}
template <class T>
inline void store(T* address, T value) {
  check_alignment(address);
  *address = value;
}

}  // namespace cuda_on_cpu

template <class T>
inline T __ldg(const T* address) {
  return cuda_on_cpu::load(address);
}
template <class T>
inline T __ldca(const T* address) {
  return cuda_on_cpu::load(address);
}
template <class T>
inline T __ldcs(const T* address) {
  return cuda_on_cpu::load(address);
}
template <class T>
inline T __ldcg(const T* address) {
  cuda_on_cpu::poll();
  return cuda_on_cpu::load(address);
}
template <class T>
inline void __stcg(T* address, std::type_identity_t<T> value) {
  cuda_on_cpu::store<T>(address, value);
}
template <class T>
inline void __stcs(T* address, std::type_identity_t<T> value) {
  cuda_on_cpu::store<T>(address, value);
}

// The volatile pair, for flags: words are atomic, longer values are copied whole.
template <class T>
inline T __ldcv(const T* address) {
  cuda_on_cpu::check_alignment(address);
  cuda_on_cpu::atomic_point(address);
  if constexpr (sizeof(T) <= 8) {
    T value;
    __atomic_load(address, &value, cuda_on_cpu::kAcquire);
    return value;
  } else {
    return *address;
  }
}
template <class T>
inline void __stwt(T* address, std::type_identity_t<T> value) {
  cuda_on_cpu::check_alignment(address);
  cuda_on_cpu::atomic_point(address);
  cuda_on_cpu::note_progress();
  if constexpr (sizeof(T) <= 8) {
    __atomic_store(address, &value, cuda_on_cpu::kRelease);
  } else {
    *address = value;
  }
}
