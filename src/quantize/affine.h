// Group-affine quantization of rows that are already in f32: the parameters of every group and the
// packed codes. Safe to call from many threads on disjoint rows. Results are bit-identical however
// rows are cut into blocks and on every instruction set with fused multiply-add; without one (SSE4,
// scalar) a few codes differ and the search may settle on other parameters of equal quality.
// Scratch memory belongs to the thread and is kept: about twice (with importance three times) the
// larger of one row and 32768 weights. std::bad_alloc if there is none.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// What all rows of one chunk share.
struct ChunkSettings {
  float tensor_scale = 1.0F;  ///< a power of two that keeps fp16 parameters in their normal range
  int8_t offset_unit = 0;     ///< m of two_level; 0 for other encodings
};

/// Rows to quantize: row-major, `cols` finite values each, rows `cols` apart.
struct RowBlock {
  const float* weights = nullptr;
  size_t rows = 0;
  size_t cols = 0;
  /// Importance of each column (diagonal of the Gram matrix), `cols` values, or null for equal.
  const float* importance = nullptr;
  /// Without importance: weigh a weight by its square and the mean square of its group, so that the
  /// search clips less. Least squares of the weights themselves clips the largest, and at 2 bits
  /// outputs suffer more from that than from coarser levels. (ggml's importance, sigma^2 + w^2.)
  bool by_magnitude = false;
};

/// Where the packed rows go; sizes as in QuantizedChunk.
struct PackedRowsOut {
  uint8_t* codes = nullptr;
  uint8_t* params = nullptr;
  uint16_t* row_scales = nullptr;
};

/// Choose what a chunk shares from a sample of its rows (any number above 0).
ChunkSettings choose_chunk_settings(const AffineSpec& spec, const RowBlock& sample);

/// The tensor scale that holds every weight up to `absmax`.
float tensor_scale_for(const AffineSpec& spec, float absmax) noexcept;

/// Quantize and pack `block`. Add the error of these rows to `sums`.
/// Returns false when a parameter left the fp16 range under settings.tensor_scale; the output is
/// then unusable and the caller repeats the chunk with tensor_scale_for(largest |w|).
bool quantize_rows(const AffineSpec& spec, const ChunkSettings& settings, const RowBlock& block,
                   const PackedRowsOut& out, ErrorSums& sums);

}  // namespace arrow_quant
