// What the kernels are given: the list and the plan in device memory, and the work space. Plain data.
#pragma once

#include "job.h"
#include "numerics/moments.h"

FASTGRAD_NUMERICS_BEGIN

constexpr int kBlockThreads = 128;
constexpr int kBlockWarps = kBlockThreads / 32;

// Whose step a kernel takes.
enum class Optimizer : int { none, sgd, adamw };

// What the compiler makes room for. A tile takes up to 160 registers a lane, with an update more; so many warps still
// have more bytes under way than a multiprocessor's share of the memory needs (bench/gpu_code.py).
constexpr int blocks_per_multiprocessor(Optimizer optimizer) { return optimizer == Optimizer::none ? 3 : 2; }

// What a tensor's elements go through: y = (x - c) * a, and the scale of the whole tensor.
struct Coefficients {
  float a, c, scale, inverse;
};

// Sums and counts of a chunk.
struct ChunkRecord {
  Moments moments;
  double yy, yq, qq, zeroed, saturated, absmax;
};

enum TaskKind : int {
  kMeasure,       // moments of one chunk
  kMeasureRows,   // moments of some dim-0 rows
  kCoefficients,  // of all tensors, once all are measured
  kClear,         // factored second moments: zeros, which squares are added to
  kSquares,       // ... of some rows and columns
  kMeans,         // ... the means of the squares, and the roots made of them
  kProcess,       // the rest of the sweep for one chunk
  kFinish,        // the row of the list
};

// Of factored second moments: a warp adds up a band of rows of a strip of 128 columns, and a task is some of those; so many
// sums are cleared, so many means made, by a task.
constexpr int kBandRows = 64, kUnitsPerTask = 8, kClearedPerTask = 8192, kMeansPerTask = 1024;

// Where the columns begin in a list of the roots of rows and columns.
FG_FN int64_t columns_begin(int64_t rows) { return (rows + 3) / 4 * 4; }

// Consecutive tasks of one kind and one tensor.
struct Segment {
  int64_t first_task;
  int32_t tensor, kind;
};

// Where a tensor's parts of the work space begin.
struct TensorPlan {
  int64_t first_chunk, chunks;
  int64_t first_row, first_span;  // centralize: rows, and their pieces of at most a chunk
  int64_t spans_per_row, spans_per_task;
  int64_t measure_tasks;
  // Factored second moments: rows and columns of one tensor are one list of R + C.
  int64_t first_count, first_root, first_leaf;
  int64_t clear_tasks, square_tasks, mean_tasks;
};

struct DeviceSweep {
  Sweep sweep;
  int count;                // tensors
  int busy;                 // tensors with elements
  bool measured_first;      // statistics come before processing
  bool needs_all;           // ... those of all tensors
  bool measured;            // statistics are made at all, and go into the table
  bool processed;           // there is something beside statistics to do
  bool sums_only;           // ... only the sums of squares of factored second moments
  bool any_normalized;      // else the moments of the list are over all tensors
  int64_t tasks, segments;
  // Uploaded.
  const TensorJob* jobs;
  const TensorPlan* plans;
  const Segment* segment;
  unsigned long long* ticket;  // the next task
  uint32_t* arrived;           // [T] measured tasks of a tensor
  uint32_t* ready;             // [T] its coefficients are there
  uint32_t* left;              // [T] processed chunks
  uint32_t* cleared;           // [T] finished tasks of factored second moments, kind by kind
  uint32_t* squared;
  uint32_t* meant;
  uint32_t* rooted;            // [T] the factors of the roots are there
  uint32_t* all;               // {tensors measured, all coefficients are there, nothing is to be written, tensors done}
  // Work space, not initialized.
  ChunkRecord* chunks;
  Moments* tensors;       // [T]
  Moments* leaves;        // [T], merged in place
  Coefficients* coefficients;
  double* row_absmax;     // [T] centralize: the largest |x - mean|
  Moments* spans;         // of rows
  float* row_means;
  unsigned long long* counts;  // squares of rows and columns, in gaps
  double* column_leaves;       // of the mean of a tensor's columns, merged in place
  float* roots;                // a of every row, b of every column
  double* global_factor;  // [1]
  double* table;
};

FASTGRAD_NUMERICS_END
