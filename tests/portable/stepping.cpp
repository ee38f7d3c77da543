// Two steps of SGD and AdamW: parameters and states, of every type they can be kept in.
#include <string>

#include "cpu/sweep.h"
#include "groups.h"
#include "numerics/formats.h"
#include "numerics/normalizers.h"
#include "numerics/stream.h"

namespace portable_bits {
namespace {

using namespace fastgrad;

constexpr const char* kTypes[] = {"fp32", "bf16", "fp16"};

Sweep step_options(int step, int threads, int weight_rounding) {
  Sweep options;
  options.seed = 2026 + static_cast<uint64_t>(step);
  options.threads = threads;
  options.weight_rounding = weight_rounding;
  return options;
}

uint64_t stream(Purpose purpose, size_t tensor, int step, uint64_t slot) {
  return pack_stream(purpose, tensor, static_cast<uint64_t>(step), slot);
}

// lr, momentum, dampening, weight_decay, nesterov, decoupled, maximize
constexpr double kSgd[][8] = {{0.1, 0.9, 0, 0, 0, 0, 0, 0},
                              {0.1, 0, 0, 0.01, 0, 0, 0, 0},
                              {0.03, 0.9, 0, 0.01, 1, 1, 0, 0},
                              {0.1, 0.85, 0.2, 0.01, 0, 0, 1, 0},
                              {1e3, 0, 0, 0.1, 0, 1, 0, 0}};

void sgd_steps(Type weights, Type buffers, int rounding, const double* hyper, int threads, const ChunkKernels& set,
               Digest& digest) {
  // Two chunks in one of the cases.
  const std::vector<int64_t> sizes = {1, 129, 1000, 2048, hyper == kSgd[0] && weights == Type::bf16 ? 66001 : 2500};
  std::vector<Bytes> parameters, momenta;
  for (size_t t = 0; t < sizes.size(); ++t) {
    parameters.push_back(numbers(weights, Kind::ordinary, 500 + t, sizes[t]));
    momenta.emplace_back(sizes[t] * 4);
  }
  for (int step = 0; step < 2; ++step) {
    std::vector<Bytes> grads;
    std::vector<TensorJob> jobs;
    for (size_t t = 0; t < sizes.size(); ++t) {
      const Kind kind = static_cast<Kind>((t + static_cast<size_t>(5 * step)) % kKinds);
      grads.push_back(numbers(static_cast<Type>((t + 1) % 3), kind, 600 + t, sizes[t]));
      TensorJob job;
      job.n = sizes[t];
      job.flags = kNormalize | kQuantize | (step == 0 ? kFirst : 0);
      job.grad = grads[t].data();
      job.grad_type = static_cast<Type>((t + 1) % 3);
      job.parameter = parameters[t].data();
      job.parameter_type = weights;
      job.momentum = hyper[1] != 0 ? momenta[t].data() : nullptr;
      job.momentum_type = buffers;
      job.hyper = hyper;
      job.factor = 1.0 + 0.125 * static_cast<double>(t);
      job.stream = stream(Purpose::gradient, t, step, 0);
      job.weight_stream = stream(Purpose::weight, t, step, 0);
      jobs.push_back(job);
    }
    Sweep options = step_options(step, threads, rounding);
    options.method = static_cast<int>(Method::centre);
    options.format = static_cast<int>(rounding == 0 ? Format::fp8_e5m2 : Format::fp32);
    options.scale_kind = rounding == 0 ? ScaleKind::tensor : ScaleKind::none;
    std::vector<double> table((sizes.size() + 1) * kTableColumns);
    run_sweep(jobs, options, set, table.data());
    digest.add(table.data(), table.size() * sizeof(double));
    for (const Bytes& bytes : parameters) digest.add(bytes);
    for (const Bytes& bytes : momenta) digest.add(bytes);
  }
}

}  // namespace

void sgd(const ChunkKernels& set) {
  for (int weights = 0; weights < 3; ++weights) {
    for (int buffers = 0; buffers < 3; ++buffers) {
      Digest total;
      for (const auto& hyper : kSgd) {
        for (int rounding = 0; rounding < 2; ++rounding) {
          total.number(on_threads([&](int threads, Digest& digest) {
                         const Type p = static_cast<Type>(weights), m = static_cast<Type>(buffers);
                         sgd_steps(p, m, rounding, hyper, threads, set, digest);
                       }).value);
        }
      }
      report((std::string("sgd weights ") + kTypes[weights] + " momentum " + kTypes[buffers]).c_str(), total);
    }
  }
}

namespace {

// lr, beta1, beta2, eps, weight_decay, maximize
constexpr double kAdamw[][8] = {{1e-3, 0.9, 0.999, 1e-8, 0.01, 0, 0, 0}, {0.1, 0.0, 0.99, 1e-6, 0.0, 1, 0, 0}};
constexpr SecondMoment kSeconds[] = {SecondMoment::fp32,   SecondMoment::bf16,   SecondMoment::fp16,
                                     SecondMoment::codes8, SecondMoment::codes4, SecondMoment::factored};
constexpr const char* kSecondNames[] = {"fp32", "bf16", "fp16", "codes8", "codes4", "factored"};
constexpr int kInt8 = 3;  // weights: after fp32, bf16 and fp16

struct Kept {  // of one tensor
  Bytes parameter, parameter_scales, first, first_scales, second, second_scales;
};

// Three shapes whose rows are whole blocks of 64.
constexpr int64_t kLengths[] = {192, 1280, 512};

int64_t rows_of(size_t t, int first_format) {
  if (t < 2) return t == 0 ? 3 : 1;
  return first_format == 6 ? 130 : 6;  // two chunks in some of the cases
}

Kept fresh(size_t t, int64_t n, int weights) {
  Kept kept;
  kept.parameter = weights == kInt8 ? Bytes(n) : numbers(static_cast<Type>(weights), Kind::ordinary, 700 + t, n);
  kept.parameter_scales = Bytes(n / 64 * 4);
  for (int64_t i = 0; weights == kInt8 && i < n; ++i) {
    const int code = static_cast<int>(mixed(static_cast<uint64_t>(i)) % 255) - 127;
    kept.parameter.bytes[static_cast<size_t>(i)] = static_cast<unsigned char>(code);
  }
  for (int64_t b = 0; b < n / 64; ++b) kept.parameter_scales.as<float>()[b] = 0.001f * static_cast<float>(1 + b % 13);
  kept.first = Bytes(n * 4);
  kept.first_scales = Bytes(n / 64 * 4);
  kept.second = Bytes(n * 4);
  kept.second_scales = Bytes((n / 64 + kLengths[t]) * 4);
  return kept;
}

void adamw_steps(int weights, int first_format, SecondMoment second, const double* hyper, int threads,
                 const ChunkKernels& set, Digest& digest) {
  std::vector<Kept> kept;
  for (size_t t = 0; t < std::size(kLengths); ++t) {
    kept.push_back(fresh(t, rows_of(t, first_format) * kLengths[t], weights));
    if (second != SecondMoment::factored) continue;
    for (Bytes* memory : {&kept[t].second, &kept[t].second_scales}) memory->bytes.assign(memory->bytes.size(), 0);
  }
  for (int step = 0; step < 3; ++step) {
    std::vector<Bytes> grads;
    std::vector<TensorJob> jobs;
    for (size_t t = 0; t < kept.size(); ++t) {
      const int64_t rows = rows_of(t, first_format), n = rows * kLengths[t];
      const Kind kind = static_cast<Kind>((t + static_cast<size_t>(5 * step)) % kKinds);
      grads.push_back(numbers(Type::fp32, kind, 800 + t, n));
      TensorJob job;
      job.n = n;
      job.rows = job.whole_rows = rows;
      job.flags = kQuantize | (step == 0 ? kFirst : 0);
      job.grad = grads[t].data();
      job.parameter = kept[t].parameter.data();
      job.parameter_type = weights == kInt8 ? Type::fp32 : static_cast<Type>(weights);
      job.hyper = hyper;
      job.stream = stream(Purpose::gradient, t, step, 0);
      job.weight_stream = stream(Purpose::weight, t, step, 0);
      if (weights == kInt8) {
        job.parameter_scales = kept[t].parameter_scales.as<float>();
        job.parameter_block = 64;
      }
      AdamwState& state = job.adamw;
      state.first = kept[t].first.data();
      state.first_format = first_format;
      if (first_format > static_cast<int>(Format::fp16)) {
        state.first_scales = kept[t].first_scales.as<float>();
        state.first_block = 64;
      }
      state.second = kept[t].second.data();
      state.second_kind = second;
      if (second >= SecondMoment::codes8) state.second_scales = kept[t].second_scales.as<float>();
      if (second == SecondMoment::codes8 || second == SecondMoment::codes4) state.second_block = 64;
      state.age = step + 1;
      state.first_stream = stream(Purpose::state, t, step, 0);
      state.second_stream = stream(Purpose::state, t, step, 1);
      jobs.push_back(job);
    }
    Sweep options = step_options(step, threads, step % 2 == 0 ? 0 : 1);
    options.update = Update::adamw;
    std::vector<double> table((kept.size() + 1) * kTableColumns);
    run_sweep(jobs, options, set, table.data());
    digest.add(table.data(), table.size() * sizeof(double));
    for (const Kept& one : kept) {
      digest.add(one.parameter);
      digest.add(one.parameter_scales);
      digest.add(one.first);
      digest.add(one.first_scales);
      digest.add(one.second);
      digest.add(one.second_scales);
    }
  }
}

// The two halves of a tensor, cut inside a tile: noise and tiles are those of the whole.
void shard_steps(int threads, const ChunkKernels& set, Digest& digest) {
  constexpr int64_t kWhole = 5000;
  for (int64_t cut : {1, 320, 1024, 3333}) {
    Bytes grad = numbers(Type::fp32, Kind::ordinary, 900, kWhole);
    Bytes parameter = numbers(Type::bf16, Kind::ordinary, 901, kWhole);
    std::vector<TensorJob> jobs;
    for (int64_t start : {int64_t{0}, cut}) {
      TensorJob job;
      job.offset = start;
      job.n = start == 0 ? cut : kWhole - cut;
      job.flags = kQuantize;
      job.grad = grad.as<float>() + start;
      job.parameter = parameter.as<uint16_t>() + start;
      job.parameter_type = Type::bf16;
      job.hyper = kSgd[1];
      job.weight_stream = 77;
      jobs.push_back(job);
    }
    Sweep options = step_options(1, threads, 0);
    options.format = static_cast<int>(Format::bf16);
    options.sharded = true;
    std::vector<double> table((jobs.size() + 1) * kTableColumns);
    run_sweep(jobs, options, set, table.data());
    digest.add(table.data(), table.size() * sizeof(double));
    digest.add(parameter);
  }
}

}  // namespace

void adamw(const ChunkKernels& set) {
  constexpr const char* kWeights[] = {"fp32", "bf16", "fp16", "int8"};
  for (int weights = 0; weights < 4; ++weights) {
    for (size_t second = 0; second < std::size(kSeconds); ++second) {
      Digest total;
      for (int first_format = 0; first_format < 8; ++first_format) {
        // All formats of the first moment with one kind of weights, two of them with the others.
        if (first_format % 4 != static_cast<int>(second) % 4 && weights != 1) continue;
        const double* hyper = kAdamw[first_format == 7 ? 1 : 0];
        total.number(on_threads([&](int threads, Digest& digest) {
                       adamw_steps(weights, first_format, kSeconds[second], hyper, threads, set, digest);
                     }).value);
      }
      const std::string name = std::string("adamw weights ") + kWeights[weights] + " second moment " + kSecondNames[second];
      report(name.c_str(), total);
    }
  }
  report("shards", on_threads([&](int threads, Digest& digest) { shard_steps(threads, set, digest); }));
}

}  // namespace portable_bits
