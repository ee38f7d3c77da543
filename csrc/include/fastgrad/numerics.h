// fastgrad's formulas for other people's kernels: the tile, Philox noise, formats, rounding, moments, one step of SGD
// and AdamW. Header-only C++20 for g++, clang and nvcc; knows neither torch nor Python. fastgrad.get_include() is the
// folder to give to -I; docs/numerics.md says what each formula computes.
//
// Compile with -ffp-contract=off (nvcc: --fmad=false) and without fast-math: a fused multiply-add changes bits.
// A program that compiles these headers for several instruction sets defines FASTGRAD_ISA as another name for each.
#pragma once

#if defined(__FAST_MATH__)
#error "fastgrad/numerics.h: fast-math changes the bits; compile without -ffast-math"
#endif

#include "../../numerics/adamw.h"
#include "../../numerics/factored.h"
#include "../../numerics/formats.h"
#include "../../numerics/moments.h"
#include "../../numerics/normalizers.h"
#include "../../numerics/philox.h"
#include "../../numerics/portable.h"
#include "../../numerics/rounding.h"
#include "../../numerics/sgd.h"
#include "../../numerics/stream.h"
#include "../../numerics/tile.h"
