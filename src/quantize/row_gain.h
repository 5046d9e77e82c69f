// Per-row output scales (row gains): a factor per row that corrects the size of its outputs after
// quantization. They cost no bits: they are multiplied into the row scales or the fp16 parameters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "quantize/output_error.h"

namespace arrow_quant {

enum class RowGain : uint8_t {
  kUnitSlope,     ///< the regression of the quantized on the original output has slope 1
  kLeastSquares,  ///< the smallest squared error of the outputs
};

/// The gain of each row from its sums in the metric of the calibrated inputs, within [1/2, 2]; 1
/// where the sums are 0.
std::vector<float> row_gains(RowGain gain, std::span<const OutputSums> rows);

/// Multiply an fp16 number by `gain`. A positive scale stays above 0. Returns false, with the
/// number unchanged, when the product is not finite.
bool multiply_half(uint16_t& bits, float gain) noexcept;

/// The same for fp16 numbers in a row, all or none.
bool multiply_halves(std::span<uint8_t> halves, float gain) noexcept;

/// Multiply the rows of `chunk` by `gains`, rounded to fp16. `chunk.error` stays that of
/// before: sum it again. Returns false, with the chunk unchanged, when a parameter leaves the fp16
/// range.
bool apply_row_gains(const AffineSpec& spec, uint64_t cols, std::span<const float> gains,
                     QuantizedChunk& chunk);

}  // namespace arrow_quant
