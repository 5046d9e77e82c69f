// Inputs of a layer with correlated channels, for tests of quantization that knows its inputs.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "calibrate/accumulate.h"
#include "core/thread_pool.h"
#include "kernels/dequantize_rows.h"
#include "quantize/feedback_factor.h"
#include "quantize/output_error.h"
#include "quantize/quantized_rows.h"

namespace arrow_quant {

/// x[tokens][channels] = latent * mixing: energies of directions fall as 1 / k^decay, and channels
/// differ in scale.
inline std::vector<float> correlated_tokens(size_t tokens, size_t channels, double decay = 1.0,
                                            unsigned seed = 11) {
  std::mt19937_64 random(5);  // the mixing is the same for every seed
  std::normal_distribution<float> normal;
  std::vector<float> mixing(channels * channels), scales(channels);
  for (size_t k = 0; k < channels; ++k) {
    const double energy = std::pow(static_cast<double>(k + 1), -decay / 2);
    for (size_t c = 0; c < channels; ++c) {
      mixing[k * channels + c] = static_cast<float>(energy) * normal(random);
    }
  }
  for (float& scale : scales) scale = std::exp(0.5F * normal(random));
  std::mt19937_64 draws(seed);
  std::vector<float> x(tokens * channels, 0.0F);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t k = 0; k < channels; ++k) {
      const float z = normal(draws);
      for (size_t c = 0; c < channels; ++c) x[t * channels + c] += z * mixing[k * channels + c];
    }
    for (size_t c = 0; c < channels; ++c) x[t * channels + c] *= scales[c];
  }
  return x;
}

inline GramMatrix gram_of(const std::vector<float>& x, size_t channels, uint64_t block = 0) {
  GramMatrix gram(channels, block);
  ThreadPool pool(1);
  accumulate_gram(x.data(), x.size() / channels, 1.0F, pool, {}, gram);
  return gram;
}

/// A chunk as rows to decode.
inline PackedRows rows_of(const QuantizedChunk& chunk, size_t cols) {
  return {chunk.codes.data(),
          chunk.params.data(),
          chunk.row_scales.data(),
          chunk.tensor_scale,
          chunk.offset_unit,
          chunk.rows,
          cols};
}

inline std::vector<float> restore(const AffineSpec& spec, const QuantizedChunk& chunk,
                                  size_t cols) {
  std::vector<float> out(chunk.rows * cols);
  dequantize_rows(spec, rows_of(chunk, cols), out.data());
  return out;
}

/// Error of the outputs over their square.
inline double output_nmse(const GramMatrix& gram, const Matrix& matrix,
                          const std::vector<float>& restored) {
  ThreadPool pool(1);
  return total(output_sums(gram, matrix.values, restored, pool)).nmse();
}

}  // namespace arrow_quant
