// Quantizes a matrix into owned buffers, for tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "quantize/affine.h"
#include "run/format_decoder.h"

namespace arrow_quant {

struct Matrix {
  size_t rows = 0, cols = 0;
  std::vector<float> values;

  RowBlock block(size_t row = 0) const { return {values.data() + row * cols, rows - row, cols}; }
};

inline Matrix random_matrix(size_t rows, size_t cols, bool laplace = false, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::exponential_distribution<float> exponential(std::sqrt(2.0F));
  Matrix matrix{rows, cols, std::vector<float>(rows * cols)};
  for (float& w : matrix.values) {
    w = laplace ? exponential(random) * ((random() & 1U) != 0 ? 1.0F : -1.0F) : normal(random);
  }
  return matrix;
}

struct QuantizedRows {
  AffineSpec spec;
  ChunkSettings settings;
  size_t rows = 0, cols = 0;
  // 0xAA, so that a byte that is never written shows.
  ByteBuffer codes, params;
  std::vector<uint16_t> scales;
  ErrorSums sums;
  bool fits = false;

  QuantizedRows(const AffineSpec& s, size_t r, size_t c)
      : spec(s),
        rows(r),
        cols(c),
        codes(r * packed_row_bytes(c, s.bit_width), 0xAA),
        params(r * param_row_bytes(c, s), 0xAA),
        scales(s.param_encoding == ParamEncoding::kFp16 ? 0 : r, 0xAAAA) {}

  PackedRowsOut out(size_t row) {
    return {codes.data() + row * packed_row_bytes(cols, spec.bit_width),
            params.data() + row * param_row_bytes(cols, spec),
            scales.empty() ? nullptr : scales.data() + row};
  }
  PackedRows packed() const {
    return {codes.data(),         params.data(), scales.data(), settings.tensor_scale,
            settings.offset_unit, rows,          cols};
  }
  double weight(size_t row, size_t col) const { return decode_weight(spec, packed(), row, col); }
};

/// Quantize all rows in blocks of `step` rows.
inline QuantizedRows quantize_matrix(const AffineSpec& spec, const Matrix& matrix,
                                     size_t step = SIZE_MAX, const float* importance = nullptr) {
  QuantizedRows result(spec, matrix.rows, matrix.cols);
  RowBlock sample = matrix.block();
  sample.importance = importance;
  result.settings = choose_chunk_settings(spec, sample);
  result.fits = true;
  for (size_t row = 0; row < matrix.rows; row += std::min(step, matrix.rows - row)) {
    RowBlock block = matrix.block(row);
    block.rows = std::min(step, block.rows);
    block.importance = importance;
    result.fits &= quantize_rows(spec, result.settings, block, result.out(row), result.sums);
  }
  return result;
}

/// Every valid combination with the given group sizes.
inline std::vector<AffineSpec> all_specs(const std::vector<int>& groups) {
  std::vector<AffineSpec> specs;
  for (Method method : {Method::kRtn, Method::kSearch}) {
    for (int group : groups) {
      for (int bits : {2, 4, 8}) specs.push_back({bits, group, ParamEncoding::kFp16, method});
      if (group % 32 != 0) continue;
      for (int bits : {2, 4}) specs.push_back({bits, group, ParamEncoding::kTwoLevel, method});
      specs.push_back({2, group, ParamEncoding::kResidualBinary, method});
    }
    specs.push_back({8, groups.front(), ParamEncoding::kRow, method});
  }
  return specs;
}

inline std::string describe(const AffineSpec& spec) {
  return std::string(to_string(spec.param_encoding)) + " " + std::to_string(spec.bit_width) +
         " bits, group " + std::to_string(spec.group_size) + ", " +
         std::string(to_string(spec.method));
}

}  // namespace arrow_quant
