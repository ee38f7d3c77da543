#include "sweep.h"

#include <memory>
#include <mutex>

#include "needs.h"
#include "numerics/adamw.h"
#include "numerics/factored.h"
#include "numerics/rounding.h"
#include "numerics/table.h"
#include "numerics/tile.h"
#include "parallel.h"
#include "subnormals.h"

namespace fastgrad {
namespace {

// Work between two barriers is cut into tasks of about this many elements, so that small tensors share a task.
constexpr int64_t kTaskElements = 32768;
// Tensors whose statistics are only their own are treated in groups with about this many bytes of gradients that are read
// before the rest of their sweep, so that the second read finds them in cache. (Others count nothing and close no group.)
constexpr int64_t kCachedBytes = int64_t{4} << 20;
// Codes of more bytes than this are written past the cache: that saves reading what they replace, which costs more than
// reading them again from memory (a list quantized and dequantized tensor by tensor gains, too).
constexpr int64_t kStreamedCodes = int64_t{1} << 20;
// Decoded values are used at once; those of so many bytes would not be found in the cache anyway.
constexpr int64_t kStreamedValues = int64_t{16} << 20;
// Rows of at most this length are so short beside a chunk that those between two of them may be read twice.
constexpr int64_t kShortRow = kChunk / 8;

int64_t size_of(Type type) { return type == Type::fp32 ? 4 : 2; }
int64_t chunks_of(int64_t n) { return (n + kChunk - 1) / kChunk; }

// A piece of one tensor: a chunk, or some dim-0 rows.
struct Piece {
  int tensor;
  int64_t first, last;
};

// Pieces of consecutive small tensors in one task.
struct Tasks {
  std::vector<Piece> pieces;
  std::vector<int64_t> starts{0};
  int64_t open_elements = 0;

  void add(Piece piece, int64_t elements) {
    pieces.push_back(piece);
    open_elements += elements;
    if (open_elements >= kTaskElements) close();
  }
  void close() {
    if (starts.back() != static_cast<int64_t>(pieces.size())) starts.push_back(pieces.size());
    open_elements = 0;
  }
  template <class Run>
  void run(int threads, const Run& one) {
    close();
    parallel_for(static_cast<int64_t>(starts.size()) - 1, threads, [&](int64_t task) {
      for (int64_t i = starts[task]; i < starts[task + 1]; ++i) one(pieces[i]);
    });
  }
};

class SweepRun {
 public:
  SweepRun(std::vector<TensorJob>& jobs, Sweep& sweep, const ChunkKernels& kernels, double* table)
      : jobs_(jobs), sweep_(sweep), kernels_(kernels), table_(table), count_(static_cast<int>(jobs.size())) {
    prepare();
  }

  bool run() {
    if (!needs_.moments_first) {
      set_global_factor();
      finish(0, count_);
    } else if (!needs_.all_first && !sweep_.two_reads) {
      set_global_factor();  // of a lagged table, if at all
      for (int first = 0; first < count_;) {
        int last = first;
        for (int64_t bytes = 0; last < count_ && (bytes == 0 || bytes + bytes_before(last) <= kCachedBytes); ++last) {
          bytes += bytes_before(last);
        }
        measure(first, last);
        finish(first, last);
        first = last;
      }
    } else {
      measure(0, count_);
      if (sweep_.skip_nonfinite && count_nonfinite() > 0) {
        for (int i = 0; i < count_; ++i) row(i)[kK] = 1.0;
        write_list_row();
        return false;
      }
      set_global_factor();
      finish(0, count_);
    }
    write_list_row();
    return true;
  }

 private:
  Method method() const { return static_cast<Method>(sweep_.method); }
  Format format() const { return static_cast<Format>(sweep_.format); }
  double* row(int i) { return table_ + int64_t{i} * kTableColumns; }
  const double* lagged_row(int i) const { return sweep_.lagged + int64_t{i} * kTableColumns; }
  bool by_rows(const TensorJob& job) const { return fastgrad::by_rows(job, sweep_); }
  // Whether the rows of a chunk are measured just before the rest of its sweep, which nothing but their means delays.
  bool rows_in_pass(const TensorJob& job) const {
    if (!by_rows(job) || job.n == 0 || job.n / job.rows > kShortRow) return false;
    const bool scale_first = scaled_by_tensor(sweep_) && job.quantized() && job.given_scales == nullptr && !sweep_.lagged;
    return !needs_.all_first && !sweep_.two_reads && !sweep_.sharded && !job.factored() && !scale_first &&
           sweep_.phase == Phase::all;
  }
  // What is read of a tensor before the rest of its sweep begins.
  int64_t bytes_before(int i) const { return rows_in_pass(jobs_[i]) ? 0 : jobs_[i].n * size_of(jobs_[i].grad_type); }

  // All that follows the moments.
  void finish(int first, int last) {
    finish_coefficients(first, last);
    factor(first, last);
    if (sweep_.phase != Phase::sums) process(first, last);
  }

  void prepare() {
    needs_ = needs_of(jobs_, sweep_);
    sweep_.moments_in_pass = needs_.moments_in_pass;
    int64_t row_total = 0, chunk_total = 0, code_bytes = 0;
    for (int i = 0; i < count_; ++i) {
      const TensorJob& job = jobs_[i];
      for (int c = 0; c < kTableColumns; ++c) row(i)[c] = 0.0;
      write_moments(no_moments(), row(i));
      row(i)[kMin] = row(i)[kMax] = 0.0;
      row(i)[kA] = row(i)[kScale] = 1.0;
      row(i)[kK] = sweep_.phase == Phase::sums ? 1.0 : job.factor;
      chunk_starts_.push_back(chunk_total);
      row_starts_.push_back(row_total);
      chunk_total += chunks_of(job.grid());
      if (by_rows(job)) row_total += job.rows;
      if (job.codes != nullptr) code_bytes += job.n * format_spec(format()).code_bits / 8;
    }
    sweep_.stream_stores = code_bytes > kStreamedCodes;
    results_.resize(chunk_total);
    if (row_total > 0) {
      row_means_ = std::make_unique<float[]>(row_total);
      row_moments_ = std::make_unique<Moments[]>(row_total);
      for (int i = 0; i < count_; ++i) {
        if (by_rows(jobs_[i])) jobs_[i].row_means = row_means_.get() + row_starts_[i];
      }
    }
    row_absmax_.assign(count_, 0.0f);
  }

  // Moments of the tensors [first, last) into the table.
  void measure(int first, int last) {
    Tasks tasks;
    for (int i = first; i < last; ++i) {
      const TensorJob& job = jobs_[i];
      if (job.n == 0 || (sweep_.sharded && !by_rows(job))) continue;
      if (rows_in_pass(job)) {
        // Those that lie in two chunks: neither may be changed before both halves are read.
        const int64_t length = job.n / job.rows;
        for (int64_t c = 1; c < chunks_of(job.n); ++c) {
          if (c * kChunk % length != 0) tasks.add({i, c * kChunk / length, c * kChunk / length + 1}, length);
        }
      } else if (by_rows(job)) {
        const int64_t length = job.n / job.rows, step = length >= kTaskElements ? 1 : kTaskElements / length;
        for (int64_t r = 0; r < job.rows; r += step) {
          const int64_t end = r + step < job.rows ? r + step : job.rows;
          tasks.add({i, r, end}, (end - r) * length);
        }
      } else {
        for (int64_t c = 0; c < chunks_of(job.n); ++c) tasks.add({i, c, c + 1}, job.n - c * kChunk < kChunk ? job.n - c * kChunk : kChunk);
      }
    }
    std::vector<float> piece_absmax;
    tasks.close();
    piece_absmax.assign(tasks.pieces.size(), 0.0f);
    const Piece* pieces = tasks.pieces.data();
    tasks.run(sweep_.threads, [&](const Piece& piece) {
      const TensorJob& job = jobs_[piece.tensor];
      if (by_rows(job)) {
        piece_absmax[&piece - pieces] = measure_rows(piece);
      } else {
        kernels_.moments(job, sweep_, piece.first, results_[chunk_starts_[piece.tensor] + piece.first].moments);
      }
    });
    for (size_t p = 0; p < tasks.pieces.size(); ++p) {
      float& largest = row_absmax_[tasks.pieces[p].tensor];
      largest = piece_absmax[p] > largest ? piece_absmax[p] : largest;
    }
    for (int i = first; i < last && !sweep_.sharded; ++i) {
      if (rows_in_pass(jobs_[i])) continue;
      by_rows(jobs_[i]) && jobs_[i].n > 0 ? merge_row_moments(i) : merge_chunk_moments(i);
    }
  }

  void merge_row_moments(int i) {
    Moments* rows = row_moments_.get() + row_starts_[i];
    halving_tree(rows, jobs_[i].rows, merge_moments);
    write_moments(rows[0], row(i));
  }

  void merge_chunk_moments(int i) {
    const int64_t chunks = chunks_of(jobs_[i].n);
    std::vector<Moments> leaves;
    for (int64_t c = 0; c < chunks; ++c) leaves.push_back(read_moments(results_[chunk_starts_[i] + c].moments));
    halving_tree(leaves.data(), chunks, merge_moments);
    write_moments(chunks > 0 ? leaves[0] : no_moments(), row(i));
  }

  // The tensors whose statistics are "all": those flagged for normalization, or every one.
  Moments merge_list() {
    bool any = false;
    for (const TensorJob& job : jobs_) any |= job.normalized();
    std::vector<Moments> leaves;
    for (int i = 0; i < count_; ++i) {
      leaves.push_back(jobs_[i].normalized() || !any ? read_moments(row(i)) : no_moments());
    }
    halving_tree(leaves.data(), static_cast<int64_t>(leaves.size()), merge_moments);
    return leaves.empty() ? no_moments() : leaves[0];
  }

  double count_nonfinite() {
    double total = 0;
    for (int i = 0; i < count_; ++i) total += row(i)[kNonfinite];
    return total;
  }

  void set_global_factor() {
    if (method() != Method::autoscale && method() != Method::clip) return;
    const Moments all = sweep_.lagged != nullptr ? read_moments(lagged_row(count_)) : merge_list();
    if (all.n == 0.0) return;
    global_factor_ = method() == Method::clip
                         ? clip_factor(all, sweep_.max_norm)
                         : alpha_factor(static_cast<Alpha>(sweep_.alpha), standard_deviation(all), sweep_.state);
  }

  void finish_coefficients(int first, int last) {
    const float largest = format_spec(format()).largest;
    for (int i = first; i < last; ++i) {
      TensorJob& job = jobs_[i];
      const double* source = sweep_.lagged != nullptr ? lagged_row(i) : row(i);
      const Moments m = read_moments(source);
      if (job.normalized() && method() != Method::none) {
        const Affine f = affine_for(method(), m, sweep_.eps, global_factor_);
        job.a = f.a;
        job.c = f.c;
      }
      row(i)[kA] = job.a;
      row(i)[kC] = job.c;
      if (!scaled_by_tensor(sweep_) || !job.quantized() || sweep_.phase == Phase::sums) continue;
      if (job.given_scales != nullptr) {
        job.scale = job.given_scales[0];
      } else {
        const float absmax = sweep_.lagged != nullptr ? static_cast<float>(source[kAbsmax]) : absmax_of(i);
        job.scale = scale_for(absmax, largest, sweep_.pow2);
      }
      job.inverse_scale = 1.0f / job.scale;
      row(i)[kScale] = job.scale;
      if (job.scales != nullptr) job.scales[0] = job.scale;
    }
  }

  // The largest finite magnitude of a tensor after the map, from this call's moments.
  float absmax_of(int i) {
    const Moments m = read_moments(row(i));
    if (by_rows(jobs_[i])) return row_absmax_[i];
    return m.n > 0.0 ? absmax_after(m, {jobs_[i].a, jobs_[i].c}) : 0.0f;
  }

  // Factored second moments: their sums, and from them, if the step is taken, their means and the roots.
  void factor(int first, int last) {
    Tasks tasks;
    std::vector<std::mutex> guards(last - first);
    for (int i = first; i < last; ++i) {
      TensorJob& job = jobs_[i];
      if (!job.factored() || job.n == 0) continue;
      const int64_t length = job.n / job.rows, step = length >= kTaskElements ? 1 : kTaskElements / length;
      own_sums_.resize(count_);
      if (job.adamw.row_sums == nullptr) {
        own_sums_[i] = std::make_unique<double[]>(job.rows + length);
        job.adamw.row_sums = own_sums_[i].get();
        job.adamw.column_sums = own_sums_[i].get() + job.rows;
      }
      if (sweep_.phase == Phase::update) continue;
      if (job.adamw.bound < 0.0f) job.adamw.bound = absmax_of(i);
      for (int64_t c = 0; c < length; ++c) job.adamw.column_sums[c] = 0.0;
      for (int64_t r = 0; r < job.rows; r += step) {
        const int64_t end = r + step < job.rows ? r + step : job.rows;
        tasks.add({i, r, end}, (end - r) * length);
      }
    }
    tasks.run(sweep_.threads, [&](const Piece& piece) {
      const TensorJob& job = jobs_[piece.tensor];
      const int64_t length = job.n / job.rows;
      const std::unique_ptr<double[]> columns(new double[length]());
      kernels_.row_squares(job, sweep_, piece.first, piece.last, job.adamw.row_sums, columns.get());
      const std::lock_guard<std::mutex> guard(guards[piece.tensor - first]);
      for (int64_t c = 0; c < length; ++c) job.adamw.column_sums[c] += columns[c];  // exact: in any order
    });
    if (sweep_.phase == Phase::sums) return;
    for (int i = first; i < last; ++i) {
      if (jobs_[i].factored() && jobs_[i].n > 0) move_means(i);
    }
  }

  void move_means(int i) {
    TensorJob& job = jobs_[i];
    AdamwState& state = job.adamw;
    const int64_t length = job.n / job.rows;
    const AdamwStep step = adamw_step(job.hyper, job.factor, state.age);
    roots_.emplace_back(std::make_unique<float[]>(job.rows + length));
    state.row_roots = roots_.back().get();
    state.column_roots = state.row_roots + job.rows;
    float* rows = static_cast<float*>(state.second);
    for (int64_t r = 0; r < job.rows; ++r) {
      rows[r] = moved_mean(job.first() ? 0.0f : rows[r], step.rate2_exact, state.row_sums[r], static_cast<double>(length));
      state.row_roots[r] = static_cast<float>(sqrt(static_cast<double>(rows[r])) / step.correction2_root);
    }
    std::vector<double> leaves(length);
    float* columns = state.second_scales;
    for (int64_t c = 0; c < length; ++c) {
      columns[c] = moved_mean(job.first() ? 0.0f : columns[c], step.rate2_exact, state.column_sums[c],
                              static_cast<double>(job.whole_rows));
      leaves[c] = columns[c];
    }
    halving_tree(leaves.data(), length, [](double a, double b) { return a + b; });
    const double mean = leaves[0] / static_cast<double>(length);
    for (int64_t c = 0; c < length; ++c) {
      state.column_roots[c] = mean == 0.0 ? 1.0f : static_cast<float>(sqrt(columns[c] / mean));
    }
  }

  void process(int first, int last) {
    Tasks tasks;
    for (int i = first; i < last; ++i) {
      const int64_t n = jobs_[i].grid();
      for (int64_t c = 0; c < chunks_of(n); ++c) tasks.add({i, c, c + 1}, n - c * kChunk < kChunk ? n - c * kChunk : kChunk);
    }
    tasks.run(sweep_.threads, [&](const Piece& piece) {
      const TensorJob& job = jobs_[piece.tensor];
      ChunkResult* result = &results_[chunk_starts_[piece.tensor] + piece.first];
      rows_in_pass(job) ? process_rows(piece, result) : kernels_.process(job, sweep_, piece.first, result);
    });
    for (int i = first; i < last; ++i) collect(i);
  }

  // The rows that lie within a chunk, and then, from the cache, the rest of its sweep.
  void process_rows(const Piece& piece, ChunkResult* result) {
    const TensorJob& job = jobs_[piece.tensor];
    const int64_t length = job.n / job.rows, begin = piece.first * kChunk, end = job.n - begin < kChunk ? job.n : begin + kChunk;
    measure_rows({piece.tensor, (begin + length - 1) / length, end / length});
    kernels_.process(job, sweep_, piece.first, result);
  }

  float measure_rows(const Piece& rows) {
    double* out = reinterpret_cast<double*>(row_moments_.get() + row_starts_[rows.tensor] + rows.first);
    return rows.first < rows.last ? kernels_.row_moments(jobs_[rows.tensor], sweep_, rows.first, rows.last, out) : 0.0f;
  }

  void collect(int i) {
    if (sweep_.moments_in_pass) merge_chunk_moments(i);
    if (rows_in_pass(jobs_[i])) merge_row_moments(i);
    const int64_t chunks = chunks_of(jobs_[i].grid());
    ChunkResult* results = results_.data() + chunk_starts_[i];
    for (int64_t c = 0; c < chunks; ++c) {
      row(i)[kZeroed] += static_cast<double>(results[c].zeroed);
      row(i)[kSaturated] += static_cast<double>(results[c].saturated);
      row(i)[kAbsmax] = results[c].absmax > row(i)[kAbsmax] ? results[c].absmax : row(i)[kAbsmax];
    }
    halving_tree(results, chunks, [](const ChunkResult& a, const ChunkResult& b) {
      ChunkResult sum = a;
      sum.yy = a.yy + b.yy;
      sum.yq = a.yq + b.yq;
      sum.qq = a.qq + b.qq;
      return sum;
    });
    if (chunks == 0) return;
    row(i)[kYY] = results[0].yy;
    row(i)[kYQ] = results[0].yq;
    row(i)[kQQ] = results[0].qq;
  }

  void write_list_row() {
    double* out = row(count_);
    for (int c = 0; c < kTableColumns; ++c) out[c] = 0.0;
    const bool measured = needs_.moments_in_pass || needs_.moments_first;
    if (measured) {
      write_moments(merge_list(), out);
      out[kNonfinite] = count_nonfinite();
    }
    struct Sums {
      double yy, yq, qq;
    };
    std::vector<Sums> sums;
    for (int i = 0; i < count_; ++i) {
      sums.push_back({row(i)[kYY], row(i)[kYQ], row(i)[kQQ]});
      out[kZeroed] += row(i)[kZeroed];
      out[kSaturated] += row(i)[kSaturated];
      out[kAbsmax] = row(i)[kAbsmax] > out[kAbsmax] ? row(i)[kAbsmax] : out[kAbsmax];
    }
    halving_tree(sums.data(), count_, [](const Sums& a, const Sums& b) {
      return Sums{a.yy + b.yy, a.yq + b.yq, a.qq + b.qq};
    });
    if (count_ > 0) {
      out[kYY] = sums[0].yy;
      out[kYQ] = sums[0].yq;
      out[kQQ] = sums[0].qq;
    }
    out[kA] = static_cast<double>(static_cast<float>(global_factor_));
    out[kScale] = out[kK] = 1.0;
  }

  std::vector<TensorJob>& jobs_;
  Sweep& sweep_;
  const ChunkKernels& kernels_;
  double* table_;
  int count_;
  Needs needs_;
  double global_factor_ = 1.0;
  std::vector<int64_t> chunk_starts_, row_starts_;
  std::vector<ChunkResult> results_;
  std::unique_ptr<float[]> row_means_;
  std::unique_ptr<Moments[]> row_moments_;
  std::vector<float> row_absmax_;
  std::vector<std::unique_ptr<double[]>> own_sums_;  // of factored second moments, by tensor
  std::vector<std::unique_ptr<float[]>> roots_;
};

}  // namespace

bool run_sweep(std::vector<TensorJob>& jobs, Sweep sweep, const ChunkKernels& kernels, double* table) {
  const SubnormalsOn guard;
  sweep.inverse_loss_scale = static_cast<float>(sweep.inv_scale);
  return SweepRun(jobs, sweep, kernels, table).run();
}

void run_dequantize(const void* codes, int format, const float* scales, int block, int64_t n, void* values, Type type,
                    int threads, const ChunkKernels& kernels) {
  const bool stream = n * size_of(type) > kStreamedValues;
  parallel_for(chunks_of(n), threads, [&](int64_t chunk) {
    kernels.dequantize(codes, format, scales, block, n, chunk, values, type, stream);
  });
}

}  // namespace fastgrad
