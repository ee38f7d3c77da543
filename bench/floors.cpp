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

enum Body { kNothing, kToU16, kToU8, kInPlace, kMomentum, kAdamw };

typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

struct Job {
  int64_t count;
  const int64_t* start;  // [count + 1]
  float* const* grad;
  void* const* out;
  float* const* param;
  float* const* momentum;
  float* const* second;
  int body, streaming;
  float a, c, mu, lr;
};

float sum(const float* x, int64_t n) {
  float columns[128] = {};
  int64_t i = 0;
  for (; i + 128 <= n; i += 128) {
    for (int j = 0; j < 128; ++j) columns[j] += x[i + j];
  }
  float total = 0;
  for (; i < n; ++i) total += x[i];
  for (float column : columns) total += column;
  return total;
}

template <typename T, int shift>
void narrow(const uint32_t* __restrict x, T* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(x[i] >> shift);
}

void narrow_streaming(const uint32_t* x, void* out, int64_t n, bool bytes) {
  int64_t i = 0;
#if HAS_STREAMING
  if ((reinterpret_cast<uintptr_t>(out) & 31) == 0) {
    for (; i + 64 <= n; i += 64) {
      for (int64_t j = i; j < i + 64; j += 16) {
        const u32x16 bits = *reinterpret_cast<const u32x16*>(x + j);
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
    narrow<uint8_t, 24>(x + i, static_cast<uint8_t*>(out) + i, n - i);
  } else {
    narrow<uint16_t, 16>(x + i, static_cast<uint16_t*>(out) + i, n - i);
  }
}

void in_place(float* x, int64_t n, float a, float c) {
  for (int64_t i = 0; i < n; ++i) x[i] = (x[i] - c) * a;
}

void momentum(const float* __restrict g, float* __restrict p, float* __restrict m, int64_t n, float mu, float lr) {
  for (int64_t i = 0; i < n; ++i) {
    const float next = __builtin_fmaf(mu, m[i], g[i]);
    m[i] = next;
    p[i] = __builtin_fmaf(-lr, next, p[i]);
  }
}

// The bytes of AdamW, without its root and its division.
void adamw(const float* __restrict g, float* __restrict p, float* __restrict m, float* __restrict v, int64_t n, float mu,
           float lr) {
  for (int64_t i = 0; i < n; ++i) {
    m[i] = __builtin_fmaf(mu, m[i], g[i]);
    v[i] = __builtin_fmaf(mu, v[i], g[i]);
    p[i] = __builtin_fmaf(-lr, m[i] + v[i], p[i]);
  }
}

void run_body(const Job& job, int64_t t, int64_t at, int64_t n) {
  const uint32_t* bits = reinterpret_cast<const uint32_t*>(job.grad[t] + at);
  switch (job.body) {
    case kToU16:
      if (job.streaming) return narrow_streaming(bits, static_cast<uint16_t*>(job.out[t]) + at, n, false);
      return narrow<uint16_t, 16>(bits, static_cast<uint16_t*>(job.out[t]) + at, n);
    case kToU8:
      if (job.streaming) return narrow_streaming(bits, static_cast<uint8_t*>(job.out[t]) + at, n, true);
      return narrow<uint8_t, 24>(bits, static_cast<uint8_t*>(job.out[t]) + at, n);
    case kInPlace: return in_place(job.grad[t] + at, n, job.a, job.c);
    case kMomentum: return momentum(job.grad[t] + at, job.param[t] + at, job.momentum[t] + at, n, job.mu, job.lr);
    case kAdamw:
      return adamw(job.grad[t] + at, job.param[t] + at, job.momentum[t] + at, job.second[t] + at, n, job.mu, job.lr);
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

}  // namespace

extern "C" {

int floor_has_streaming() { return HAS_STREAMING; }

// read_first: the gradients are summed before the body runs, in windows of whole tensors of at least `window`
// elements (0: the whole list), with a barrier between. Returns the sum that was read.
double floor_run(int64_t count, const int64_t* start, float* const* grad, void* const* out, float* const* param,
                 float* const* momenta, float* const* seconds, int body, int read_first, int streaming, int64_t window,
                 float a, float c, float mu, float lr, int threads) {
  const Job job{count, start, grad, out, param, momenta, seconds, body, streaming, a, c, mu, lr};
  double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    const int part = omp_get_thread_num(), parts = omp_get_num_threads();
    for (int64_t t = 0; t < count;) {
      const int64_t first = start[t];
      do ++t;
      while (t < count && (window <= 0 || start[t] - first < window));
      const int64_t from = cut(job, first, start[t], part, parts), to = cut(job, first, start[t], part + 1, parts);
      if (read_first) {
        walk(job, from, to, [&](int64_t i, int64_t at, int64_t n) { total += sum(grad[i] + at, n); });
        if (body != kNothing) {
#pragma omp barrier
        }
      }
      walk(job, from, to, [&](int64_t i, int64_t at, int64_t n) { run_body(job, i, at, n); });
    }
#if HAS_STREAMING
    if (streaming) _mm_sfence();
#endif
  }
  return total;
}
}
