#include "quantize/affine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/convert.h"
#include "quantize/encodings.h"

namespace arrow_quant {
namespace {

// The largest weight is scaled to [2^12, 2^13): the parameters of rows and groups a million times
// smaller are still normal fp16 numbers, and weights 8 times larger than the sample still fit.
constexpr int kTargetExponent = 13;

/// Importance relative to the largest, so that sums stay in range; what is not a positive number
/// counts as 0.
std::vector<float> normalized(const float* importance, size_t cols) {
  std::vector<float> out(importance, importance + cols);
  float top = 0;
  for (float& h : out) {
    if (!(h > 0.0F) || !std::isfinite(h)) h = 0;
    top = std::max(top, h);
  }
  for (float& h : out) h = top > 0.0F ? h / top : 1.0F;
  return out;
}

bool dispatch(const AffineSpec& spec, const ChunkSettings& settings, const RowBlock& block,
              const PackedRowsOut& out, ErrorSums& sums) {
  const float factor = 1.0F / settings.tensor_scale;
  switch (spec.param_encoding) {
    case ParamEncoding::kTwoLevel:
      return quantize_two_level(spec, factor, settings.offset_unit, block, out, sums);
    case ParamEncoding::kFp16:
      return quantize_fp16(spec, factor, block, out, sums);
    case ParamEncoding::kRow:
      return quantize_int8_rows(spec, factor, block, out, sums);
    case ParamEncoding::kResidualBinary:
      return quantize_residual_binary(spec, factor, block, out, sums);
  }
  return false;
}

/// Error of the sample with offset unit m; infinite when it cannot be stored.
double sample_error(const AffineSpec& spec, const ChunkSettings& settings, const RowBlock& sample) {
  std::vector<uint8_t> codes(sample.rows * packed_row_bytes(sample.cols, spec.bit_width));
  std::vector<uint8_t> params(sample.rows * param_row_bytes(sample.cols, spec));
  std::vector<uint16_t> scales(sample.rows);
  ErrorSums sums;
  const bool fits =
      quantize_rows(spec, settings, sample, {codes.data(), params.data(), scales.data()}, sums);
  return fits ? sums.err : HUGE_VAL;
}

}  // namespace

float tensor_scale_for(const AffineSpec& /*spec*/, float absmax) noexcept {
  if (!(absmax > 0.0F) || !std::isfinite(absmax)) return 1.0F;
  // Between 2^-126 and 2^126 the scale and its inverse are both normal numbers.
  return std::ldexp(1.0F, std::clamp(std::ilogb(absmax) + 1 - kTargetExponent, -126, 126));
}

ChunkSettings choose_chunk_settings(const AffineSpec& spec, const RowBlock& sample) {
  ChunkSettings settings;
  settings.tensor_scale = tensor_scale_for(spec, absmax(sample.weights, sample.rows * sample.cols));
  if (spec.param_encoding != ParamEncoding::kTwoLevel) return settings;
  double min_error = HUGE_VAL;
  int8_t best = spec.bit_width == 2 ? 2 : 3;
  constexpr std::array<int8_t, 5> kFourBits = {3, 2, 4, 6, 10};
  constexpr std::array<int8_t, 5> kTwoBits = {2, 1, 3, 4, 6};
  for (int8_t unit : spec.bit_width == 2 ? kTwoBits : kFourBits) {
    settings.offset_unit = unit;
    const double error = sample_error(spec, settings, sample);
    if (error < min_error) min_error = error, best = unit;
  }
  settings.offset_unit = best;
  return settings;
}

bool quantize_rows(const AffineSpec& spec, const ChunkSettings& settings, const RowBlock& block,
                   const PackedRowsOut& out, ErrorSums& sums) {
  if (block.rows == 0 || block.cols == 0) return true;
  RowBlock weighted = block;
  std::vector<float> importance;
  if (block.importance != nullptr && spec.method != Method::kRtn) {
    importance = normalized(block.importance, block.cols);
    weighted.importance = importance.data();
  }
  // Accumulate in units of tensor_scale, where squares can neither overflow nor vanish.
  ErrorSums scaled;
  if (!dispatch(spec, settings, weighted, out, scaled)) return false;
  const double unit = static_cast<double>(settings.tensor_scale) * settings.tensor_scale;
  sums.add({scaled.ww * unit, scaled.vv * unit, scaled.wv * unit, scaled.err * unit, scaled.count});
  return true;
}

}  // namespace arrow_quant
