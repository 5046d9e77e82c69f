// The four parameter encodings, each for blocks of rows. Called by quantize_rows only.
//
// `factor` is 1 / tensor_scale; error sums are those of w * factor. Each returns false when a
// parameter left the fp16 range. Scratch memory belongs to the thread and is kept.
#pragma once

#include "quantize/affine.h"

namespace arrow_quant {

bool quantize_fp16(const AffineSpec& spec, float factor, const RowBlock& block,
                   const PackedRowsOut& out, ErrorSums& sums);

/// `offset_unit` is m.
bool quantize_two_level(const AffineSpec& spec, float factor, int offset_unit,
                        const RowBlock& block, const PackedRowsOut& out, ErrorSums& sums);

bool quantize_int8_rows(const AffineSpec& spec, float factor, const RowBlock& block,
                        const PackedRowsOut& out, ErrorSums& sums);

bool quantize_residual_binary(const AffineSpec& spec, float factor, const RowBlock& block,
                              const PackedRowsOut& out, ErrorSums& sums);

}  // namespace arrow_quant
