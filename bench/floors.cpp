// Plain loops that move the bytes of an op and do next to nothing else: the floor of its time.
// A list of tensors is one long range of elements (start[t] is the first of tensor t); every thread takes an equal part.
#include <omp.h>

#include <algorithm>
#include <cstdint>

#if defined(__AVX__)
#include <immintrin.h>
#define HAS_STREAMING 1
#else
#define HAS_STREAMING 0
#endif

namespace {

enum Body { kNothing, kToU16, kToU8, kInPlace, kMomentum, kAdamw, kFromU8 };

// A gradient in bfloat16: the upper half of a float. Stores truncate; floors round nothing.
struct Bf16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline float load(Bf16 x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }
inline void store(float& to, float x) { to = x; }
inline void store(Bf16& to, float x) { to.bits = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, x) >> 16); }

typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

struct Job {
  int64_t count;
  const int64_t* start;  // [count + 1]
  void* const* grad;
  void* const* out;
  float* const* param;
  float* const* momentum;
  void* const* second;
  int body, streaming;
  float a, c, mu, lr;
};

template <typename G>
float sum(const G* x, int64_t n) {
  float columns[128] = {};
  int64_t i = 0;
  for (; i + 128 <= n; i += 128) {
    for (int j = 0; j < 128; ++j) columns[j] += load(x[i + j]);
  }
  float total = 0;
  for (; i < n; ++i) total += load(x[i]);
  for (float column : columns) total += column;
  return total;
}

// The upper bits of every element.
template <typename T, typename W>
void narrow(const W* __restrict x, T* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(x[i] >> (8 * (sizeof(W) - sizeof(T))));
}

template <typename W>
void narrow_streaming(const W* x, void* out, int64_t n, bool bytes) {
  int64_t i = 0;
#if HAS_STREAMING
  if ((reinterpret_cast<uintptr_t>(out) & 31) == 0) {
    for (; i + 64 <= n; i += 64) {
      for (int64_t j = i; j < i + 64; j += 16) {
        u32x16 bits;
        if constexpr (sizeof(W) == 4) {
          bits = *reinterpret_cast<const u32x16*>(x + j);
        } else {
          bits = __builtin_convertvector(*reinterpret_cast<const u16x16*>(x + j), u32x16) << 16;
        }
        if (bytes) {
          const u8x16 codes = __builtin_convertvector(bits >> 24, u8x16);
          _mm_stream_si128(reinterpret_cast<__m128i*>(static_cast<uint8_t*>(out) + j), (__m128i)codes);
        } else {
          const u16x16 codes = __builtin_convertvector(bits >> 16, u16x16);
          _mm256_stream_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(out) + j), (__m256i)codes);
        }
      }
    }
  }
#endif
  if (bytes) {
    narrow(x + i, static_cast<uint8_t*>(out) + i, n - i);
  } else {
    narrow(x + i, static_cast<uint16_t*>(out) + i, n - i);
  }
}

// The other way: codes become elements.
template <typename G>
void widen(const uint8_t* __restrict codes, G* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) store(x[i], __builtin_bit_cast(float, static_cast<uint32_t>(codes[i]) << 24));
}

template <typename G>
void in_place(G* x, int64_t n, float a, float c) {
  for (int64_t i = 0; i < n; ++i) store(x[i], (load(x[i]) - c) * a);
}

template <typename G>
void momentum(const G* __restrict g, float* __restrict p, float* __restrict m, int64_t n, float mu, float lr) {
  for (int64_t i = 0; i < n; ++i) {
    const float next = __builtin_fmaf(mu, m[i], load(g[i]));
    m[i] = next;
    p[i] = __builtin_fmaf(-lr, next, p[i]);
  }
}

// The bytes of AdamW, without its root and its division.
template <typename G>
void adamw(const G* __restrict g, float* __restrict p, float* __restrict m, float* __restrict v, int64_t n, float mu,
           float lr) {
  for (int64_t i = 0; i < n; ++i) {
    m[i] = __builtin_fmaf(mu, m[i], load(g[i]));
    v[i] = __builtin_fmaf(mu, v[i], load(g[i]));
    p[i] = __builtin_fmaf(-lr, m[i] + v[i], p[i]);
  }
}

template <typename G, typename W>
void run_body(const Job& job, int64_t t, int64_t at, int64_t n) {
  G* grad = static_cast<G*>(job.grad[t]) + at;
  const W* bits = reinterpret_cast<const W*>(grad);
  uint16_t* out16 = static_cast<uint16_t*>(job.out[t]) + at;
  uint8_t* out8 = static_cast<uint8_t*>(job.out[t]) + at;
  switch (job.body) {
    case kToU16: return job.streaming ? narrow_streaming(bits, out16, n, false) : narrow(bits, out16, n);
    case kToU8: return job.streaming ? narrow_streaming(bits, out8, n, true) : narrow(bits, out8, n);
    case kFromU8: return widen(out8, static_cast<G*>(job.second[t]) + at, n);
    case kInPlace: return in_place(grad, n, job.a, job.c);
    case kMomentum: return momentum(grad, job.param[t] + at, job.momentum[t] + at, n, job.mu, job.lr);
    case kAdamw:
      return adamw(grad, job.param[t] + at, job.momentum[t] + at, static_cast<float*>(job.second[t]) + at, n, job.mu,
                   job.lr);
    default: return;
  }
}

int64_t tensor_of(const Job& job, int64_t element) {
  return std::upper_bound(job.start, job.start + job.count + 1, element) - job.start - 1;
}

// Where the part of a thread ends: inside a tensor, on a multiple of 64 elements.
int64_t cut(const Job& job, int64_t first, int64_t last, int part, int parts) {
  if (part == parts) return last;
  const int64_t element = first + (last - first) * part / parts;
  const int64_t begin = job.start[tensor_of(job, element)];
  return std::max(first, begin + ((element - begin) & ~int64_t{63}));
}

template <typename Piece>
void walk(const Job& job, int64_t from, int64_t to, const Piece& piece) {
  for (int64_t t = from < to ? tensor_of(job, from) : job.count; t < job.count && job.start[t] < to; ++t) {
    const int64_t begin = std::max(from, job.start[t]), end = std::min(to, job.start[t + 1]);
    if (begin < end) piece(t, begin - job.start[t], end - begin);
  }
}

// One thread's part of all. Returns the sum of what it read first.
template <typename G, typename W>
double run_part(const Job& job, int read_first, int64_t window, int part, int parts) {
  double total = 0;
  for (int64_t t = 0; t < job.count;) {
    const int64_t first = job.start[t];
    do ++t;
    while (t < job.count && (window <= 0 || job.start[t] - first < window));
    const int64_t from = cut(job, first, job.start[t], part, parts), to = cut(job, first, job.start[t], part + 1, parts);
    if (read_first) {
      walk(job, from, to,
           [&](int64_t i, int64_t at, int64_t n) { total += sum(static_cast<const G*>(job.grad[i]) + at, n); });
      if (job.body != kNothing) {
#pragma omp barrier
      }
    }
    walk(job, from, to, [&](int64_t i, int64_t at, int64_t n) { run_body<G, W>(job, i, at, n); });
  }
#if HAS_STREAMING
  if (job.streaming) _mm_sfence();
#endif
  return total;
}

}  // namespace

extern "C" {

int floor_has_streaming() { return HAS_STREAMING; }

// width: bytes of a gradient's element, 4 or 2 (bfloat16).
// read_first: the gradients are summed before the body runs, in windows of whole tensors of at least `window`
// elements (0: the whole list), with a barrier between. Returns the sum that was read.
double floor_run(int64_t count, const int64_t* start, void* const* grad, void* const* out, float* const* param,
                 float* const* momenta, void* const* seconds, int width, int body, int read_first, int streaming,
                 int64_t window, float a, float c, float mu, float lr, int threads) {
  const Job job{count, start, grad, out, param, momenta, seconds, body, streaming, a, c, mu, lr};
  double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    const int part = omp_get_thread_num(), parts = omp_get_num_threads();
    total += width == 4 ? run_part<float, uint32_t>(job, read_first, window, part, parts)
                        : run_part<Bf16, uint16_t>(job, read_first, window, part, parts);
  }
  return total;
}
}
