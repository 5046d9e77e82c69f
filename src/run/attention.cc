#include "arrow_quant/attention.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "arrow_quant/error.h"
#include "core/half.h"
#include "kernels/convert.h"
#include "kernels/isa.h"
#include "run/attention_heads.h"

namespace arrow_quant {
namespace {

// Up to so many numbers, a vector of keys is fuller than one of a head's numbers.
constexpr size_t kNarrow = 16;

void check(const AttentionCall& call) {
  if (call.width >= 1 && call.width <= kWidestHead && call.key_count >= 1) return;
  throw Error(ErrorCode::kConfiguration,
              "attention to " + std::to_string(call.key_count) + " keys of width " +
                  std::to_string(call.width) +
                  ": expected at least one key, of a width from 1 to " +
                  std::to_string(kWidestHead),
              {.hint = "Use the attention of torch for these heads."});
}

}  // namespace

void load_token(const InputNumbers& token, size_t width, float* to) noexcept {
  if (token.f32 != nullptr) {
    std::copy_n(token.f32, width, to);
  } else {
    for (size_t i = 0; i < width; ++i) to[i] = bf16_to_f32(token.bf16[i]);
  }
}

void store_token(const float* from, size_t width, const OutputNumbers& token) noexcept {
  if (token.f32 != nullptr) {
    std::copy_n(from, width, token.f32);
  } else {
    convert_f32_to_bf16(from, width, token.bf16);
  }
}

void store_nan(size_t width, const OutputNumbers& token) noexcept {
  if (token.f32 != nullptr) {
    std::fill_n(token.f32, width, std::numeric_limits<float>::quiet_NaN());
  } else {
    std::fill_n(token.bf16, width, uint16_t{0x7FC0});
  }
}

bool all_finite(const float* numbers, size_t count) noexcept {
  uint32_t bad = 0;  // no early exit: so vectors of them are looked at
  for (size_t i = 0; i < count; ++i) {
    bad |= (std::bit_cast<uint32_t>(numbers[i]) & 0x7F800000U) == 0x7F800000U ? 1U : 0U;
  }
  return bad == 0;
}

void attention(const AttentionCall& call) {
  check_isa_override();
  check(call);
  call.width <= kNarrow ? attend_narrow_heads(call) : attend_wide_heads(call);
}

}  // namespace arrow_quant
