// Sweeps that quantize and normalize: codes, scales, values, tables.
#include <string>

#include "cpu/sweep.h"
#include "groups.h"
#include "numerics/formats.h"
#include "numerics/normalizers.h"

namespace portable_bits {
namespace {

using namespace fastgrad;

constexpr int64_t kSmall[] = {1, 17, 127, 128, 129, 0, 1000, 1025, 3000};
constexpr int64_t kLarge[] = {65536 + 3, 5, 140001, 2048};

// The memory of a list of tensors, and the jobs that point into it.
struct List {
  std::vector<Bytes> grads, outs, codes, scales;
  std::vector<TensorJob> jobs;

  // `first`: of the kinds; tensor t has kind first + t.
  List(const int64_t* sizes, size_t count, int first, Type type)
      : List(std::vector<int64_t>(sizes, sizes + count), first, type) {}
  List(const std::vector<int64_t>& sizes, int first, Type type) {
    for (size_t t = 0; t < sizes.size(); ++t) {
      const Kind kind = static_cast<Kind>((static_cast<size_t>(first) + t) % kKinds);
      grads.push_back(numbers(type, kind, t + 31 * static_cast<size_t>(first), sizes[t]));
      outs.emplace_back(sizes[t] * 4);
      codes.emplace_back(sizes[t] * 4);
      scales.emplace_back(4 * (sizes[t] / 16 + 1));
    }
    for (size_t t = 0; t < sizes.size(); ++t) {
      TensorJob job;
      job.n = sizes[t];
      job.flags = kQuantize;
      job.grad = grads[t].data();
      job.grad_type = type;
      job.out = outs[t].data();
      job.codes = codes[t].data();
      job.scales = scales[t].as<float>();
      job.stream = (uint64_t{t} << 43) | 7;
      jobs.push_back(job);
    }
  }

  void sweep(const Sweep& options, const ChunkKernels& set, Digest& digest) {
    std::vector<double> table((jobs.size() + 1) * kTableColumns);
    digest.number(run_sweep(jobs, options, set, table.data()));
    digest.add(table.data(), table.size() * sizeof(double));
    for (const auto* memory : {&outs, &codes, &scales}) {
      for (const Bytes& bytes : *memory) digest.add(bytes);
    }
  }
};

struct Scales {
  ScaleKind kind;
  int block;
  bool pow2, given;
};
constexpr Scales kScales[] = {{ScaleKind::none, 0, false, false},   {ScaleKind::tensor, 0, false, false},
                              {ScaleKind::tensor, 0, true, false},  {ScaleKind::tensor, 0, false, true},
                              {ScaleKind::block, 16, false, false}, {ScaleKind::block, 32, true, false},
                              {ScaleKind::block, 256, false, true}};

void quantize_list(List& list, const Scales& how, int format, int rounding, int threads, const ChunkKernels& set,
                   Digest& digest) {
  std::vector<Bytes> given;
  Sweep options;
  options.format = format;
  options.rounding = rounding;
  options.scale_kind = how.kind;
  options.block = how.block;
  options.pow2 = how.pow2;
  options.seed = 0x6661737467726164ull;
  options.measure = how.block != 16;
  options.threads = threads;
  for (size_t t = 0; t < list.jobs.size(); ++t) {
    TensorJob& job = list.jobs[t];
    job.out_type = static_cast<Type>((t + static_cast<size_t>(rounding)) % 3);
    if (how.kind == ScaleKind::none) job.scales = nullptr;
    given.push_back(Bytes(4 * (job.n / 16 + 1)));
    for (int64_t b = 0; b <= job.n / 16; ++b) {
      given.back().as<float>()[b] = power_of_two(static_cast<int>((b * 7 + static_cast<int64_t>(t)) % 60) - 40) * 1.25f;
    }
  }
  for (size_t t = 0; how.given && t < list.jobs.size(); ++t) list.jobs[t].given_scales = given[t].as<float>();
  list.sweep(options, set, digest);
}

// What was stored, decoded again into every type.
void decode_list(List& list, const Scales& how, int format, int threads, const ChunkKernels& set, Digest& digest) {
  for (TensorJob& job : list.jobs) {
    for (Type type : {Type::fp32, Type::bf16, Type::fp16}) {
      Bytes values(job.n * 4);
      run_dequantize(job.codes, format, job.scales, how.block, job.n, values.data(), type, threads, set);
      digest.add(values);
    }
  }
}

}  // namespace

void quantizing(const ChunkKernels& set) {
  for (int format = 0; format < 8; ++format) {
    for (int rounding = 0; rounding < 3; ++rounding) {
      Digest total, decoded;
      int number = 0;
      for (const Scales& how : kScales) {
        if (format == 0 && how.kind != ScaleKind::none) continue;
        const auto run = [&](int threads, Digest& digest) {
          const Type type = static_cast<Type>(number % 3);
          List small(kSmall, std::size(kSmall), number + rounding, type);
          quantize_list(small, how, format, rounding, threads, set, digest);
          if (rounding == 0 && how.kind == ScaleKind::tensor && !how.given && !how.pow2) {
            List large(kLarge, std::size(kLarge), number + format, type);
            quantize_list(large, how, format, rounding, threads, set, digest);
          }
        };
        total.number(on_threads(run).value);
        if (!how.given) {
          decoded.number(on_threads([&](int threads, Digest& digest) {
                           List small(kSmall, std::size(kSmall), number, Type::fp32);
                           Digest unused;
                           quantize_list(small, how, format, rounding, threads, set, unused);
                           decode_list(small, how, format, threads, set, digest);
                         }).value);
        }
        ++number;
      }
      const std::string name = std::string(kFormats[format]) + " " + kRoundings[rounding];
      report(("quantize " + name).c_str(), total);
      report(("dequantize " + name).c_str(), decoded);
    }
  }
}

namespace {

constexpr const char* kMethods[] = {"none", "centre", "znorm", "clip", "autoscale", "centralize"};

void normalize_list(int method, int alpha, int variant, int threads, const ChunkKernels& set, Digest& digest) {
  // Rows of 5, 43, 7, 1 and 3 elements, and, in one of the cases, of more than a chunk.
  const int64_t long_row = alpha == 0 && variant == 0 ? 65539 : 1027;
  const std::vector<int64_t> sizes = {10, 129, 7, 1, 0, 3000, 2 * long_row}, rows = {2, 3, 1, 1, 0, 1000, 2};
  double state[2] = {0.0, 0.0};
  std::vector<double> lagged((sizes.size() + 1) * kTableColumns);
  for (int step = 0; step < 2; ++step) {
    List list(sizes, variant + 3 * step, static_cast<Type>(variant % 3));
    Sweep options;
    options.method = method;
    options.alpha = alpha;
    options.max_norm = 0.5;
    options.state = state;
    options.seed = 99;
    options.threads = threads;
    if (variant == 1) options.two_reads = true;
    if (variant == 2) options.inv_scale = 1.0 / 1024;
    if (variant == 3) options.skip_nonfinite = true;
    if (variant == 4 && step > 0) options.lagged = lagged.data();
    if (variant % 2 == 0) {
      options.format = static_cast<int>(variant == 0 ? Format::fp8_e4m3 : Format::int8);
      options.scale_kind = ScaleKind::tensor;
    }
    for (size_t t = 0; t < sizes.size(); ++t) {
      TensorJob& job = list.jobs[t];
      job.rows = rows[t];
      job.flags = t % 4 == 3 ? kQuantize : kNormalize | (variant % 2 == 0 ? kQuantize : 0);
      job.out_type = static_cast<Type>((t + static_cast<size_t>(variant)) % 3);
    }
    std::vector<double> table((sizes.size() + 1) * kTableColumns);
    digest.number(run_sweep(list.jobs, options, set, table.data()));
    digest.add(table.data(), table.size() * sizeof(double));
    for (const Bytes& bytes : list.outs) digest.add(bytes);
    for (const Bytes& bytes : list.codes) digest.add(bytes);
    digest.add(state, sizeof state);
    lagged = table;
  }
}

}  // namespace

void normalizing(const ChunkKernels& set) {
  for (int method = 0; method < 6; ++method) {
    Digest total;
    const int rules = static_cast<Method>(method) == Method::autoscale ? 8 : 1;
    for (int alpha = 0; alpha < rules; ++alpha) {
      for (int variant = 0; variant < 5; ++variant) {
        if (alpha > 0 && variant % 4 != 0) continue;
        total.number(on_threads([&](int threads, Digest& digest) {
                       normalize_list(method, alpha, variant, threads, set, digest);
                     }).value);
      }
    }
    report((std::string("normalize ") + kMethods[method]).c_str(), total);
  }
}

}  // namespace portable_bits
