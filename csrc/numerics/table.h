// The columns of the table. See docs/numerics.md, section 10.
#pragma once

#include "moments.h"

FASTGRAD_NUMERICS_BEGIN

enum TableColumn { kN, kMean, kM2, kMin, kMax, kNonfinite, kA, kC, kYY, kYQ, kQQ, kZeroed, kSaturated, kScale, kAbsmax, kK };

FG_FN Moments read_moments(const double* row) {
  return {row[kN], row[kMean], row[kM2], row[kMin], row[kMax], row[kNonfinite]};
}

FG_FN void write_moments(const Moments& m, double* row) {
  row[kN] = m.n;
  row[kMean] = m.mean;
  row[kM2] = m.m2;
  row[kMin] = m.min;
  row[kMax] = m.max;
  row[kNonfinite] = m.nonfinite;
}

FASTGRAD_NUMERICS_END
