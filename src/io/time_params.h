// The column time_params: groups of diffusion time as bytes and back (docs/reference/format.md).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// Most groups that a reader takes.
inline constexpr uint32_t kMaxTimeGroups = 1000;

/// The value of the column for one chunk, whose rows the scales and biases belong to; nothing for
/// no groups. Scales and biases are rounded as they are stored.
std::vector<uint8_t> pack_time_groups(const std::vector<TimeGroup>& groups);

/// What `pack_time_groups` makes of `groups`, for a chunk of `rows` rows; nothing when `bytes` are
/// no such value: another length, times that overlap or run backwards, NaN or infinity.
std::optional<std::vector<TimeGroup>> unpack_time_groups(std::span<const uint8_t> bytes,
                                                         uint64_t rows);

/// Bytes that `pack_time_groups` makes.
uint64_t time_params_bytes(const std::vector<TimeGroup>& groups) noexcept;

/// `bias` as a reader will see it.
std::vector<float> stored_bias(const std::vector<float>& bias);

}  // namespace arrow_quant
