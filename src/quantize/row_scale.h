// Row scales as they are stored. Pure functions.
#pragma once

#include "core/half.h"

namespace arrow_quant {

/// The fp16 number nearest to `scale`, never 0: 1 for a row of zeros, else at least 2^-24.
/// Infinity or NaN when `scale` does not fit.
inline float usable_row_scale(float scale) noexcept {
  if (scale == 0.0F) return 1.0F;
  const float stored = f16_to_f32(f32_to_f16(scale));
  return stored == 0.0F ? f16_to_f32(1) : stored;
}

}  // namespace arrow_quant
