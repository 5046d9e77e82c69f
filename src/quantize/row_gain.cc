#include "quantize/row_gain.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"

namespace arrow_quant {
namespace {

constexpr double kLargestGain = 2;

uint16_t product(uint16_t bits, float gain) noexcept {
  const float value = f16_to_f32(bits) * gain;
  const uint16_t stored = f32_to_f16(value);
  // A scale must not vanish; it then stays the least there is.
  return (stored & 0x7FFFU) == 0 && value != 0.0F ? static_cast<uint16_t>(stored | 1U) : stored;
}

bool is_finite(uint16_t bits) noexcept { return (bits & 0x7C00U) != 0x7C00U; }

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

bool multiply_half(uint16_t& bits, float gain) noexcept {
  const uint16_t result = product(bits, gain);
  if (!is_finite(result)) return false;
  bits = result;
  return true;
}

bool multiply_halves(std::span<uint8_t> halves, float gain) noexcept {
  const auto at = [&](size_t i) {
    uint16_t bits = 0;
    std::memcpy(&bits, halves.data() + i, sizeof(bits));
    return product(bits, gain);
  };
  for (size_t i = 0; i < halves.size(); i += sizeof(uint16_t)) {
    if (!is_finite(at(i))) return false;
  }
  for (size_t i = 0; i < halves.size(); i += sizeof(uint16_t)) {
    const uint16_t bits = at(i);
    std::memcpy(halves.data() + i, &bits, sizeof(bits));
  }
  return true;
}

bool apply_row_gains(const AffineSpec& spec, uint64_t cols, std::span<const float> gains,
                     QuantizedChunk& chunk) {
  std::vector<uint16_t> scales = chunk.row_scales;
  ByteBuffer params = chunk.params;
  const size_t row_bytes = param_row_bytes(cols, spec);
  for (size_t row = 0; row < chunk.rows; ++row) {
    const bool fits =
        spec.param_encoding == ParamEncoding::kFp16
            ? multiply_halves(std::span(params).subspan(row * row_bytes, row_bytes), gains[row])
            : multiply_half(scales[row], gains[row]);
    if (!fits) return false;
  }
  chunk.row_scales = std::move(scales);
  chunk.params = std::move(params);
  return true;
}

}  // namespace arrow_quant
