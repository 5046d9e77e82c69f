#include "read/legacy/decode.h"

#include <algorithm>
#include <array>

namespace arrow_quant {
namespace {

constexpr size_t kBlock = 1024;

int16_t unpack2(std::span<const uint8_t> data, Int2Order order, uint64_t element) noexcept {
  const unsigned place = static_cast<unsigned>(element % 4);
  const unsigned shift = 2 * (order == Int2Order::kLsb ? place : 3 - place);
  return static_cast<int16_t>(((data[element / 4] >> shift) & 3U) - 2);
}

// Elements from `element` on that share one scale and one factor, at most `most`.
uint64_t run_length(const LegacyTensor& tensor, uint64_t element, uint64_t most) noexcept {
  const LegacyGroups& groups = tensor.groups;
  uint64_t run = most;
  if (groups.stride != 0) {
    run = std::min(run, groups.stride - element % groups.stride);
  } else if (element / groups.block + 1 < groups.count) {
    run = std::min(run, groups.block - element % groups.block);
  }
  if (tensor.equalization != 0) {
    run = std::min(run, tensor.row_elements - element % tensor.row_elements);
  }
  return run;
}

}  // namespace

void decode_legacy_codes(const LegacyTensor& tensor, std::span<const uint8_t> data, Int2Order order,
                         uint64_t first, std::span<int16_t> out) {
  if (tensor.codes == LegacyCodes::kPacked2) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = unpack2(data, order, first + i);
    return;
  }
  const std::span<const uint8_t> bytes = data.subspan(first, out.size());
  const bool is_signed = tensor.codes == LegacyCodes::kSigned8;
  std::ranges::transform(bytes, out.begin(), [is_signed](uint8_t byte) {
    return static_cast<int16_t>(is_signed ? static_cast<int8_t>(byte) : byte);
  });
}

void decode_legacy_weights(const LegacyTensor& tensor, const LegacyValue& value, Int2Order order,
                           uint64_t first, std::span<float> out) {
  std::array<int16_t, kBlock> codes{};
  for (size_t done = 0; done < out.size();) {
    const uint64_t element = first + done;
    const uint64_t run = run_length(tensor, element, std::min(kBlock, out.size() - done));
    const uint64_t group = tensor.groups.of(element);
    const float scale = value.scales[group];
    const float zero = value.zero_points.empty() ? 0.0F : value.zero_points[group];
    const float factor =
        tensor.equalization == 0 ? 1.0F : value.equalization[element / tensor.row_elements];
    decode_legacy_codes(tensor, value.data, order, element, std::span(codes).first(run));
    for (uint64_t i = 0; i < run; ++i) {
      out[done + i] = (static_cast<float>(codes[i]) - zero) * scale * factor;
    }
    done += run;
  }
}

}  // namespace arrow_quant
