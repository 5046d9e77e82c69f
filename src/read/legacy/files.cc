// Layouts C and D: one file per tensor, a byte per weight whatever the label says.
#include <algorithm>
#include <optional>
#include <string>

#include "arrow_quant/error.h"
#include "core/text.h"
#include "read/legacy/columns.h"
#include "read/legacy/tensor.h"

namespace arrow_quant {
namespace {

constexpr uint64_t ceil_div(uint64_t a, uint64_t b) noexcept {
  return a / b + (a % b != 0 ? 1 : 0);
}

uint64_t first_dim(const LegacyRecord& record) {
  return record.shape.empty() ? 1 : record.shape[0];
}

// One scale for the whole tensor, else one per `group_size` rows, else one per index of quant_axis.
std::optional<LegacyGroups> spatial_groups(const LegacyRecord& record) {
  if (record.scales == 1) return LegacyGroups{.count = 1, .block = record.elements};
  const uint64_t rows = first_dim(record);
  const uint64_t row_elements = record.elements / rows;
  if (record.group_size && *record.group_size > 0) {
    const uint64_t size = std::min(static_cast<uint64_t>(*record.group_size), rows);
    if (record.scales != ceil_div(rows, size)) return std::nullopt;
    return LegacyGroups{.count = record.scales, .block = size * row_elements};
  }
  const auto axis = static_cast<uint64_t>(record.quant_axis.value_or(0));
  if (axis >= record.shape.size() || record.scales != record.shape[axis]) return std::nullopt;
  uint64_t stride = 1;
  for (size_t i = axis + 1; i < record.shape.size(); ++i) stride *= record.shape[i];
  return LegacyGroups{.count = record.scales, .stride = stride};
}

// Adjacent stretches of the flattened tensor, one per time group.
LegacyGroups time_groups(const LegacyRecord& record) {
  const uint64_t count = std::min(record.scales, record.elements);
  return {.count = count, .block = ceil_div(record.elements, count)};
}

// The number of scales decides. Where it fits both the time groups and the rows, time comes first.
LegacyGroups groups_of(const LegacyRecord& record, const std::string& path) {
  if (record.scales == 0) fail_legacy(path, "integer weights without scales", record.name);
  const std::optional<LegacyGroups> spatial = spatial_groups(record);
  const bool timed = record.time_groups.has_value();
  const bool only_timed = timed && !record.equalization;
  if (only_timed || (timed && (!spatial || record.scales == *record.time_groups))) {
    return time_groups(record);
  }
  if (spatial) return *spatial;
  const uint64_t rows = first_dim(record);
  const auto size = static_cast<uint64_t>(std::max<int64_t>(record.group_size.value_or(0), 1));
  fail_legacy_size("scales (one, or one per group of rows)", ceil_div(rows, size), record.scales,
                   record, path);
}

int bit_width_of(const LegacyRecord& record, const std::string& path) {
  const std::string label = legacy_label(record.quant_type);
  if (label == "int2") return 2;
  if (label == "int4") return 4;
  if (label == "int8") return 8;
  throw Error(
      ErrorCode::kMetadata, "quant_type '" + printable(record.quant_type) + "' is not known",
      {.path = path, .tensor = record.name, .hint = "This layout has int2, int4, int8 and none."});
}

LegacyTensor raw_floats(const LegacyRecord& record) {
  LegacyTensor tensor{.row_group = record.row_group, .row = record.row};
  tensor.data_bytes = record.data_bytes;
  return tensor;
}

LegacyTensor interpret_unquantized(LegacyLayout layout, const LegacyRecord& record,
                                   const std::string& path) {
  if (record.data_bytes == 0 && record.elements != 0) {
    LegacyTensor tensor = raw_floats(record);
    tensor.in_companion = true;
    return tensor;
  }
  const bool diffusion = layout == LegacyLayout::kDiffusionFiles;
  if (diffusion && record.data_bytes == record.elements * sizeof(float)) return raw_floats(record);
  return interpret_plain_values(record, path);
}

LegacyTensor interpret_codes(const LegacyRecord& record, int bit_width, const std::string& path) {
  LegacyTensor tensor = raw_floats(record);
  tensor.codes = LegacyCodes::kUnsigned8;
  tensor.bit_width = bit_width;
  tensor.groups = groups_of(record, path);
  tensor.zero_points = record.zero_points;
  if (record.zero_points != 0 && record.zero_points != record.scales) {
    fail_legacy_size("zero points", record.scales, record.zero_points, record, path);
  }
  tensor.equalization = record.equalization.value_or(0);
  tensor.row_elements = record.elements / first_dim(record);
  if (tensor.equalization != 0 && tensor.equalization != first_dim(record)) {
    fail_legacy_size("equalization_scales", first_dim(record), tensor.equalization, record, path);
  }
  return tensor;
}

}  // namespace

LegacyTensor interpret_tensor_file(LegacyLayout layout, const LegacyRecord& record,
                                   const std::string& path) {
  const std::string label = legacy_label(record.quant_type);
  if (label.empty() || label == "none") return interpret_unquantized(layout, record, path);
  const int bit_width = bit_width_of(record, path);
  if (record.data_bytes == record.elements * sizeof(float)) return raw_floats(record);
  if (record.data_bytes == 0) fail_legacy_absent(record, path);
  if (record.data_bytes != record.elements) {
    fail_legacy_size("bytes of data, one per weight", record.elements, record.data_bytes, record,
                     path);
  }
  return interpret_codes(record, bit_width, path);
}

}  // namespace arrow_quant
