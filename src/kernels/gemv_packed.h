// Products of a few tokens with packed rows, at the speed at which the codes come from memory.
//
// Codes are multiplied as they are: for each sub-group of `two_level`, sum x v = q * sum x code
// + (m z - 2^(b-1) q) * sum x, and what clamping v changes is added where it can happen.
// Activations are integers (kernels/activations.h), arranged so that codes need no reordering.
// Pure functions, safe from many threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/activations.h"

namespace arrow_quant {

/// Packed bytes that are taken at a time.
inline constexpr size_t kGemvBlock = 64;

/// Packed bytes that share a 32-bit lane, and with it the parameters of a sub-group.
inline constexpr size_t kGemvLane = 4;

/// Bytes that hold the sum of a sub-group.
inline constexpr size_t kGroupPlanes = 4;

/// One token: integer activations x of `inputs` inputs, padded with zeros to whole blocks.
struct GemvToken {
  /// [blocks][planes][8 / bits][kGemvBlock]: byte j of phase i of a block belongs to code
  /// j * (8 / bits) + i of that block.
  const int8_t* planes = nullptr;
  /// Sums of x over sub-groups in signed bytes, the highest first: [kGroupPlanes][group_stride],
  /// with zeros behind them up to whole blocks. Only for `two_level`.
  const int8_t* group_planes = nullptr;
  size_t group_stride = 0;
  double sum = 0;  ///< of all x
};

/// Rows to multiply; sizes as in QuantizedChunk.
struct GemvRows {
  const uint8_t* codes = nullptr;
  const uint8_t* params = nullptr;  ///< null for `row`
  size_t rows = 0;
  size_t inputs = 0;
  int bits = 4;
  size_t group = 0;  ///< of `two_level`: codes per parameter byte
  int offset_unit = 0;
};

/// Whether gemv_packed can do `two_level` rows with sub-groups of so many codes.
bool gemv_takes_group(int bits, size_t group) noexcept;

/// out[row] = sum x v, v the int8 of two_level codes of 2 or 4 bits or of signed bytes.
void gemv_packed(const GemvRows& rows, const GemvToken& token, int planes, float* out) noexcept;

}  // namespace arrow_quant
