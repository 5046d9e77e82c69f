// Quantization of rows whose inputs are known: parameters by weighted search, then codes with error
// feedback (see feedback_factor.h). The packed form is that of any other method.
//
// Works in every parameter encoding. Safe to call from many threads on disjoint rows, which share
// one factor. Cut a tensor at multiples of kFeedbackRows, and results do not depend on who
// quantizes which rows. Scratch memory belongs to the thread and is kept: about 5 bytes times
// kFeedbackRows times the columns. std::bad_alloc if there is none.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "arrow_quant/quantized_tensor.h"
#include "core/thread_pool.h"
#include "quantize/affine.h"
#include "quantize/feedback_factor.h"

namespace arrow_quant {

inline constexpr size_t kFeedbackRows = 256;

enum class FeedbackEffort : uint8_t {
  kOnce,    ///< GPTQ as it is
  kScales,  ///< the same for a few more scales of each row, keeping the least error: 2 and 4 bits
};

/// Find parameters for `block`, whose `importance` is not read, quantize and pack it. Add the error
/// of these rows to `sums`. Returns false when a parameter left the fp16 range under
/// settings.tensor_scale, as quantize_rows does. `factor.usable` is required.
bool quantize_rows_with_feedback(const AffineSpec& spec, const ChunkSettings& settings,
                                 const RowBlock& block, const FeedbackFactor& factor,
                                 const PackedRowsOut& out, ErrorSums& sums,
                                 FeedbackEffort effort = FeedbackEffort::kScales);

/// The same for parameters that are already in `out`: only the codes are found anew.
void encode_rows_with_feedback(const AffineSpec& spec, const ChunkSettings& settings,
                               const RowBlock& block, const FeedbackFactor& factor,
                               const PackedRowsOut& out, ErrorSums& sums);

/// Quantize weights[rows][cols], finite and in memory, as one chunk from row 0 on. Without a usable
/// factor by search alone. Raises kQuantization when the weights fit no scale.
QuantizedChunk quantize_chunk_with_feedback(const AffineSpec& spec, std::span<const float> weights,
                                            uint64_t rows, const FeedbackFactor& factor,
                                            ThreadPool& pool,
                                            const std::function<void()>& poll = {},
                                            FeedbackEffort effort = FeedbackEffort::kScales);

}  // namespace arrow_quant
