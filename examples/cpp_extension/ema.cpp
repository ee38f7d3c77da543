// An exponential moving average of weights that is kept in bfloat16, rounded stochastically with fastgrad's noise:
//
//     e <- SR(e + rate * (p - e))
//
// A moving average needs it: with rate = 1e-3 every move is smaller than half a gap of bfloat16, and rounding to nearest
// would never move at all. One formula of our own between fastgrad's noise and fastgrad's rounding.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <fastgrad/numerics.h>

namespace py = pybind11;
using namespace fastgrad;

// e: codes of bfloat16, written. p: float32, as many. (seed, stream) and an element's index name its noise.
void ema_(py::array_t<uint16_t, py::array::c_style> e, py::array_t<float, py::array::c_style> p, float rate,
          uint64_t seed, uint64_t stream) {
  if (e.size() != p.size()) throw std::invalid_argument("p: expected as many elements as e has");
  uint16_t* codes = e.mutable_data();
  const float* weights = p.data();
  const int64_t n = e.size();
  const PhiloxKeys keys(seed);
  for (int64_t start = 0; start < n; start += kTile) {
    for (uint32_t column = 0; column < kColumns; ++column) {
      // One Philox counter for a column of the tile: 16 bits for each of its eight rows.
      const PhiloxWords<uint32_t> words = column_noise<uint32_t>(keys, stream, start / kTile, column);
      const uint32_t of_row[4] = {words.w0, words.w1, words.w2, words.w3};
      for (int row = 0; row < kRows; ++row) {
        const int64_t i = start + row * kColumns + column;
        if (i >= n) break;
        const uint32_t noise = row < 4 ? of_row[row] & 0xffffu : of_row[row - 4] >> 16;
        const float before = dequantize_code<Format::bf16>(codes[i], 1.0f);
        const float moved = before + rate * (weights[i] - before);
        codes[i] = static_cast<uint16_t>(quantize_any<Format::bf16, Rounding::stochastic>(moved, 1.0f, 1.0f, noise).code);
      }
    }
  }
}

PYBIND11_MODULE(fastgrad_ema, m) {
  m.def("ema_", &ema_, py::arg("e").noconvert(), py::arg("p").noconvert(), py::arg("rate"), py::arg("seed"),
        py::arg("stream"));
  m.def("pack_stream", [](int purpose, uint64_t parameter, uint64_t step, uint64_t slot) {
    return pack_stream(static_cast<Purpose>(purpose), parameter, step, slot);
  });
}
