// Weights and integers of one row of an old layout, from its bytes. Pure functions; any part of a
// tensor may be asked for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/model_index.h"
#include "read/legacy/tensor.h"

namespace arrow_quant {

/// The large columns of a row. `data` lives as long as whatever holds the page.
struct LegacyValue {
  std::span<const uint8_t> data;
  std::vector<float> scales;
  std::vector<float> zero_points;   ///< empty: all are zero
  std::vector<float> equalization;  ///< empty: none
};

/// Integers q of elements [first, first + out.size()): -128..127 when signed, 0..255 otherwise.
void decode_legacy_codes(const LegacyTensor& tensor, std::span<const uint8_t> data, Int2Order order,
                         uint64_t first, std::span<int16_t> out);

/// w = (q - zero_point) * scale * equalization of elements [first, first + out.size()), in f32, in
/// this order of operations.
void decode_legacy_weights(const LegacyTensor& tensor, const LegacyValue& value, Int2Order order,
                           uint64_t first, std::span<float> out);

}  // namespace arrow_quant
