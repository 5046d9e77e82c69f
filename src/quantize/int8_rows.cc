// param_encoding "row": w = tensor_scale * row_scale * code, code a signed byte.
#include <algorithm>
#include <array>
#include <cmath>

#include "codec/row.h"
#include "core/half.h"
#include "kernels/convert.h"
#include "kernels/encode.h"
#include "quantize/encodings.h"
#include "quantize/row_scale.h"

namespace arrow_quant {
namespace {

/// Try clipping the row's range: largest |code| * scale as a fraction of the largest |weight|.
float search_scale(const float* weights, const RowBlock& block, float factor, float whole) {
  constexpr std::array<float, 16> kFractions = {1.0F,  0.98F, 0.96F, 0.94F, 0.92F, 0.9F,
                                                0.87F, 0.84F, 0.81F, 0.78F, 0.74F, 0.7F,
                                                0.64F, 0.57F, 0.5F,  0.4F};
  float best = whole;
  double min_error = HUGE_VAL;
  for (size_t k = 0; k < kFractions.size(); k += 4) {
    std::array<float, 4> scales;
    std::array<double, 4> errors;
    for (size_t j = 0; j < 4; ++j) scales[j] = usable_row_scale(whole * kFractions[k + j]);
    int8_errors(weights, block.importance, block.cols, factor, scales.data(), errors.data());
    const double before = min_error;
    for (size_t j = 0; j < 4; ++j) {
      if (errors[j] < min_error) min_error = errors[j], best = scales[j];
    }
    if (errors[3] > 1.5 * before) break;  // the error only grows from here
  }
  return best;
}

}  // namespace

bool quantize_int8_rows(const AffineSpec& spec, float factor, const RowBlock& block,
                        const PackedRowsOut& out, ErrorSums& sums) {
  for (size_t row = 0; row < block.rows; ++row) {
    const float* weights = block.weights + row * block.cols;
    float scale = usable_row_scale(absmax(weights, block.cols) * factor / codec::row::kMaxV);
    if (!std::isfinite(scale)) return false;
    if (spec.method != Method::kRtn) scale = search_scale(weights, block, factor, scale);
    out.row_scales[row] = f32_to_f16(scale);
    encode_int8(weights, block.cols, factor, scale, out.codes + row * block.cols, sums);
  }
  return true;
}

}  // namespace arrow_quant
