// Activations as integers, for products with integer weights.
//
// A number becomes one, two or three signed bytes, x = scale * (p0 * 256^(n-1) + ... + p(n-1)), the
// scale being the token's: one plane is the usual dynamic int8; three carry 24 bits below the
// token's largest value, as much as f32 does. Pure functions, safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace arrow_quant {

inline constexpr int kMaxPlanes = 3;

/// Largest integer of `planes` byte limbs whose first is at most 127.
constexpr int32_t largest_integer(int planes) noexcept {
  return planes == 1 ? 127 : planes == 2 ? 127 * 256 + 127 : (127 * 256 + 127) * 256 + 127;
}

/// What quantize_token found.
struct TokenSums {
  float scale = 0;             ///< NaN when an activation is NaN or infinite; 0 when all are 0
  int32_t sums[kMaxPlanes]{};  ///< of each plane
};

/// Largest magnitude of x[i] * factors[i]; NaN when one is NaN or infinite. `factors` may be null.
float token_absmax(const float* x, const float* factors, size_t count) noexcept;

/// Quantize x[i] * factors[i] in steps of `scale` into `count` bytes of each of the limbs, which
/// lie `stride` apart. Values beyond the largest integer are clamped to it; a scale that is 0 or
/// not a number gives zeros.
TokenSums quantize_token(const float* x, const float* factors, size_t count, float scale,
                         int planes, size_t stride, int8_t* out) noexcept;

/// Sum of signed bytes.
int32_t sum_bytes(const int8_t* bytes, size_t count) noexcept;

}  // namespace arrow_quant
