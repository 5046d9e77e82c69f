// Layers on packed weights: y = x W^T + b without ever restoring W.
//
// Activations are taken as integers of one to three signed bytes (byte limbs; their number is
// `planes`), one scale per token, and multiplied exactly; only then come the scales. With three
// limbs the result is that of f32 arithmetic; with one it is W8A8, W4A8 or W2A8. Functions work on
// memory that the caller owns, with `threads` OpenMP threads, and are safe from many threads on
// different outputs. A token with a NaN or an infinite activation gives NaN outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "arrow_quant/api.h"
#include "arrow_quant/numbers.h"
#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// A weight expanded to int8 in the layout of the kernels: twice to four times the packed size, and
/// nothing left to do per call. Made by make_panels.
struct PanelWeight {
  const uint8_t* panels = nullptr;    ///< panels_bytes
  const float* row_scales = nullptr;  ///< per output; with the power of two of the tensor
  size_t outputs = 0;                 ///< rows of the weight
  size_t inputs = 0;                  ///< columns of the weight
};

/// The input and output of a layer, row-major and contiguous.
struct LinearCall {
  InputNumbers x;                        ///< [tokens][inputs]
  OutputNumbers y;                       ///< [tokens][y_stride], of which `outputs` are written
  size_t tokens = 0;                     ///< rows of x and y
  size_t y_stride = 0;                   ///< elements from one row of y to the next
  const float* bias = nullptr;           ///< per output, or null
  const float* input_factors = nullptr;  ///< multiply x per channel (1 / equalization), or null
  int planes = 3;                        ///< byte limbs of an activation: 1, 2 or 3
  float activation_scale = 0;            ///< static scale of one limb; 0: per token
  int threads = 1;                       ///< OpenMP threads, at least 1
};

/// Compute y = x W^T + b from packed codes. Raises kShapeMismatch when sizes disagree, and
/// kConfiguration for a spec that does not exist, more than 65536 inputs, or other than 1 to 3
/// limbs.
ARROW_QUANT_API void linear(const PackedWeightView& weight, const LinearCall& call);
/// The same for a weight that was expanded before.
ARROW_QUANT_API void linear(const PanelWeight& weight, const LinearCall& call);

/// Bytes of the panels of a weight [outputs, inputs].
ARROW_QUANT_API size_t panels_bytes(size_t outputs, size_t inputs) noexcept;

/// Expand a weight whose parameters are not `fp16` into `panels`, panels_bytes(rows, cols) bytes.
/// Raises kShapeMismatch when sizes disagree and kConfiguration for fp16 parameters.
ARROW_QUANT_API void make_panels(const PackedWeightView& weight, int threads,
                                 std::span<uint8_t> panels);

}  // namespace arrow_quant
