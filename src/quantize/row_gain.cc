#include "quantize/row_gain.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"

namespace arrow_quant {
namespace {

constexpr double kLargestGain = 2;

/// Multiply an fp16 number; false when the result is not finite.
bool multiply(uint16_t& bits, float gain) {
  const float value = f16_to_f32(bits) * gain;
  const uint16_t stored = f32_to_f16(value);
  // A scale must not vanish; it then stays the least there is.
  bits = (stored & 0x7FFFU) == 0 && value != 0.0F ? static_cast<uint16_t>(stored | 1U) : stored;
  return (bits & 0x7C00U) != 0x7C00U;
}

}  // namespace

std::vector<float> row_gains(RowGain gain, std::span<const OutputSums> rows) {
  std::vector<float> gains;
  gains.reserve(rows.size());
  for (const OutputSums& row : rows) {
    const double value = gain == RowGain::kUnitSlope ? row.yy / row.yz() : row.yz() / row.zz();
    const bool usable = std::isfinite(value) && value > 0;
    gains.push_back(
        static_cast<float>(usable ? std::clamp(value, 1 / kLargestGain, kLargestGain) : 1.0));
  }
  return gains;
}

bool apply_row_gains(const AffineSpec& spec, uint64_t cols, std::span<const float> gains,
                     QuantizedChunk& chunk) {
  std::vector<uint16_t> scales = chunk.row_scales;
  std::vector<uint8_t> params = chunk.params;
  const size_t row_bytes = param_row_bytes(cols, spec);
  for (size_t row = 0; row < chunk.rows; ++row) {
    if (spec.param_encoding != ParamEncoding::kFp16) {
      if (!multiply(scales[row], gains[row])) return false;
      continue;
    }
    for (size_t i = row * row_bytes; i < (row + 1) * row_bytes; i += sizeof(uint16_t)) {
      uint16_t bits = 0;
      std::memcpy(&bits, params.data() + i, sizeof(bits));
      if (!multiply(bits, gains[row])) return false;
      std::memcpy(params.data() + i, &bits, sizeof(bits));
    }
  }
  chunk.row_scales = std::move(scales);
  chunk.params = std::move(params);
  return true;
}

}  // namespace arrow_quant
