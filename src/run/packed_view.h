// Checks and rows of a packed weight in memory that somebody else owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "kernels/dequantize_rows.h"

namespace arrow_quant {

/// Raise kShapeMismatch unless a buffer has as many elements as expected.
void check_size(uint64_t found, uint64_t expected, const char* what);

/// Raise kConfiguration for a spec that does not exist, and kShapeMismatch unless the buffers have
/// the sizes that rows, columns and spec imply.
void check_view(const PackedWeightView& weight);

/// The chunk that `row` lies in.
const PackedWeightView::Chunk& chunk_of(const PackedWeightView& weight, uint64_t row) noexcept;

/// One past the last row of the chunk that `row` lies in.
uint64_t end_of_chunk(const PackedWeightView& weight, uint64_t row) noexcept;

/// Rows [first, first + count), all of one chunk.
PackedRows rows_of(const PackedWeightView& weight, uint64_t first, uint64_t count) noexcept;

/// The scale of every row with the tensor's power of two in it; empty for `fp16` parameters.
std::vector<float> row_scales_of(const PackedWeightView& weight);

}  // namespace arrow_quant
