// Which combinations of bit width, group size and parameter encoding exist, and what they cost.
//
// The only such rule: plans, artefacts, packed weights and Python ask here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "arrow_quant/error.h"
#include "arrow_quant/quantized_tensor.h"
#include "codec/fp16.h"
#include "codec/two_level.h"

namespace arrow_quant::codec {

inline constexpr int kMinGroupSize = 8;
inline constexpr int kMaxGroupSize = 65536;

/// Whether a group is cut into sub-groups with a parameter byte each.
constexpr bool has_sub_groups(ParamEncoding encoding) noexcept {
  return encoding == ParamEncoding::kTwoLevel || encoding == ParamEncoding::kResidualBinary;
}

/// Weights that share a parameter: those of a group or sub-group. Meaningless for `row`.
constexpr size_t weights_per_param(const AffineSpec& spec) noexcept {
  const auto group = static_cast<size_t>(spec.group_size);
  return has_sub_groups(spec.param_encoding) ? group / two_level::kSubGroups : group;
}

/// Bytes of one parameter: 1, 4 (fp16) or 0 (row).
constexpr size_t bytes_per_param(ParamEncoding encoding) noexcept {
  if (has_sub_groups(encoding)) return 1;
  return encoding == ParamEncoding::kFp16 ? fp16::kParamBytes : 0;
}

/// Bytes of the codes, parameters and row scales of a weight [rows, cols].
uint64_t stored_bytes(const AffineSpec& spec, uint64_t rows, uint64_t cols) noexcept;

/// What is wrong with a bit width of any encoding, in words, or nothing.
std::string bit_width_problem(int bit_width);

/// What is wrong with a bit width of `encoding`, in words, or nothing.
std::string bit_width_problem(int bit_width, ParamEncoding encoding);

/// What is wrong with a group size of `encoding`, in words, or nothing.
std::string group_size_problem(int group_size, ParamEncoding encoding);

/// Whether groups of this size can have sub-groups.
bool can_have_sub_groups(int group_size) noexcept;

/// What is wrong with `spec`, in words, or nothing. Its method does not matter.
std::string spec_problem(const AffineSpec& spec);

/// Raise kConfiguration, with `context`, for a spec with a problem.
void check_spec(const AffineSpec& spec, const ErrorContext& context = {});

}  // namespace arrow_quant::codec
