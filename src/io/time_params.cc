#include "io/time_params.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"

namespace arrow_quant {
namespace {

constexpr uint32_t kHasScale = 1;
constexpr uint32_t kHasBias = 2;
constexpr size_t kHeaderBytes = 2 * sizeof(uint32_t);
constexpr size_t kGroupBytes = 2 * sizeof(double) + 3 * sizeof(float);

template <typename T>
void put(std::vector<uint8_t>& to, T value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof(T));
}

template <typename T>
T take(const uint8_t*& from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof(T));
  from += sizeof(T);
  return value;
}

/// A power of two by which fp16 numbers hold `values`.
float unit_of(const std::vector<float>& values) noexcept {
  float top = 0;
  for (const float value : values) top = std::max(top, std::abs(value));
  if (!(top > 0.0F) || !std::isfinite(top)) return 1.0F;
  return std::ldexp(1.0F, std::clamp(std::ilogb(top) - 14, -126, 112));
}

void put_halves(std::vector<uint8_t>& to, const std::vector<float>& values, float unit) {
  for (const float value : values) put(to, f32_to_f16(value / unit));
}

bool take_halves(const uint8_t*& from, uint64_t rows, float unit, std::vector<float>& to) {
  to.resize(rows);
  bool finite = true;
  for (float& value : to) {
    value = unit * f16_to_f32(take<uint16_t>(from));
    finite &= std::isfinite(value);
  }
  return finite;
}

bool is_sound(const TimeGroup& group, float unit) noexcept {
  return std::isfinite(group.begin) && std::isfinite(group.end) && group.begin < group.end &&
         std::isfinite(group.activation_scale) && group.activation_scale >= 0 &&
         std::isfinite(group.activation_zero) && std::isfinite(unit) && unit > 0;
}

}  // namespace

std::vector<uint8_t> pack_time_groups(const std::vector<TimeGroup>& groups) {
  std::vector<uint8_t> bytes;
  if (groups.empty()) return bytes;
  const uint32_t flags = (groups[0].output_scale.empty() ? 0U : kHasScale) |
                         (groups[0].output_bias.empty() ? 0U : kHasBias);
  put(bytes, static_cast<uint32_t>(groups.size()));
  put(bytes, flags);
  for (const TimeGroup& group : groups) {
    put(bytes, group.begin);
    put(bytes, group.end);
    put(bytes, group.activation_scale);
    put(bytes, group.activation_zero);
    put(bytes, unit_of(group.output_bias));
  }
  for (const TimeGroup& group : groups) put_halves(bytes, group.output_scale, 1.0F);
  for (const TimeGroup& group : groups) {
    put_halves(bytes, group.output_bias, unit_of(group.output_bias));
  }
  return bytes;
}

std::optional<std::vector<TimeGroup>> unpack_time_groups(std::span<const uint8_t> bytes,
                                                         uint64_t rows) {
  if (bytes.size() < kHeaderBytes) return std::nullopt;
  const uint8_t* from = bytes.data();
  const auto count = take<uint32_t>(from);
  const auto flags = take<uint32_t>(from);
  if (count == 0 || count > kMaxTimeGroups || (flags & ~(kHasScale | kHasBias)) != 0) {
    return std::nullopt;
  }
  // No product before the rows are known to fit: each takes at least two bytes.
  const uint64_t arrays = (flags & kHasScale ? 1 : 0) + (flags & kHasBias ? 1 : 0);
  if (arrays != 0 && rows > bytes.size() / sizeof(uint16_t)) return std::nullopt;
  if (bytes.size() != kHeaderBytes + count * (kGroupBytes + arrays * rows * sizeof(uint16_t))) {
    return std::nullopt;
  }
  std::vector<TimeGroup> groups(count);
  std::vector<float> units(count);
  for (uint32_t g = 0; g < count; ++g) {
    groups[g].begin = take<double>(from);
    groups[g].end = take<double>(from);
    groups[g].activation_scale = take<float>(from);
    groups[g].activation_zero = take<float>(from);
    units[g] = take<float>(from);
    const bool after_last = g == 0 || groups[g - 1].end <= groups[g].begin;
    if (!is_sound(groups[g], units[g]) || !after_last) return std::nullopt;
  }
  bool finite = true;
  for (uint32_t g = 0; g < count && (flags & kHasScale) != 0; ++g) {
    finite &= take_halves(from, rows, 1.0F, groups[g].output_scale);
  }
  for (uint32_t g = 0; g < count && (flags & kHasBias) != 0; ++g) {
    finite &= take_halves(from, rows, units[g], groups[g].output_bias);
  }
  if (!finite) return std::nullopt;
  return groups;
}

uint64_t time_params_bytes(const std::vector<TimeGroup>& groups) noexcept {
  if (groups.empty()) return 0;
  uint64_t bytes = kHeaderBytes;
  for (const TimeGroup& group : groups) {
    bytes +=
        kGroupBytes + sizeof(uint16_t) * (group.output_scale.size() + group.output_bias.size());
  }
  return bytes;
}

std::vector<float> stored_bias(const std::vector<float>& bias) {
  const float unit = unit_of(bias);
  std::vector<float> stored = bias;
  for (float& value : stored) value = unit * f16_to_f32(f32_to_f16(value / unit));
  return stored;
}

}  // namespace arrow_quant
