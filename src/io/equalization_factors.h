// The column equalization: factors of input channels as bytes and back (docs/reference/format.md).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace arrow_quant {

/// The nearest of the factors that one byte holds, 2^(k/8) with |k| at most 96. The same bits on
/// any machine.
float byte_factor(float factor) noexcept;

/// The value of the column: a byte for each factor where all are `byte_factor`s, else f32.
std::vector<uint8_t> pack_factors(std::span<const float> factors);

/// The factors of `channels` channels; nothing when `bytes` are no such value: another length, a
/// byte out of range, a number that is not positive and normal.
std::optional<std::vector<float>> unpack_factors(std::span<const uint8_t> bytes, uint64_t channels);

}  // namespace arrow_quant
