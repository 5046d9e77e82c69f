// Convolutions on packed weights, as products of integers (see linear.h): no unfolded copy of the
// input is made, each tap of the kernel is a stretch of the sum.
//
// Images are channels-last. The integers of a sample share one scale. A sample with a NaN or an
// infinite activation gives NaN outputs. Thread safety as in linear.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "arrow_quant/api.h"
#include "arrow_quant/numbers.h"
#include "arrow_quant/quantized_tensor.h"

namespace arrow_quant {

/// Sizes of a convolution without groups; [0] is along the height, [1] along the width. One
/// dimension is a height of 1.
struct ARROW_QUANT_API ConvShape {
  size_t batch = 0;                      ///< images
  size_t channels = 0;                   ///< of the input
  size_t outputs = 0;                    ///< channels of the output
  std::array<size_t, 2> size{};          ///< height and width of the input
  std::array<size_t, 2> kernel{1, 1};    ///< taps
  std::array<size_t, 2> stride{1, 1};    ///< input positions from one output to the next
  std::array<size_t, 2> padding{};       ///< zeros before and after
  std::array<size_t, 2> dilation{1, 1};  ///< input positions from one tap to the next

  /// Raise kConfiguration unless kernel, stride and dilation are at least 1 and every size that is
  /// made of these numbers fits 63 bits. All functions below do so first.
  void validate() const;

  /// Positions of the kernel, of a shape that is valid.
  size_t taps() const noexcept { return kernel[0] * kernel[1]; }
  /// Height and width of the output; 0 where the kernel does not fit. Raises as `validate`.
  std::array<size_t, 2> output_size() const;
};

/// The input and output of a convolution, contiguous.
struct ConvCall {
  ConvShape shape;                       ///< of all arrays
  InputNumbers x;                        ///< [batch][height][width][channels]
  OutputNumbers y;                       ///< [batch][out height][out width][outputs]
  const float* bias = nullptr;           ///< per output, or null
  const float* input_factors = nullptr;  ///< multiply x per channel (1 / equalization), or null
  int planes = 3;                        ///< byte limbs of an activation: 1, 2 or 3
  float activation_scale = 0;            ///< static scale of one limb; 0: per sample
  int threads = 1;                       ///< OpenMP threads, at least 1
};

/// A weight expanded to int8 in the layout of the kernels; made by make_conv_panels.
struct ConvPanels {
  std::span<const uint8_t> panels;    ///< conv_panels_bytes
  std::span<const float> row_scales;  ///< per output, with the power of two of the tensor
};

/// Convolve with a weight [outputs, channels * taps] whose parameters are not `fp16`.
/// Raises kShapeMismatch when shapes disagree, kConfiguration for an invalid shape or more than
/// 65536 inputs a sum.
ARROW_QUANT_API void conv2d(const PackedWeightView& weight, const ConvCall& call);
/// The same for a weight that was expanded before.
ARROW_QUANT_API void conv2d(const ConvPanels& weight, const ConvCall& call);

/// Bytes of the panels of a weight [shape.outputs, shape.channels * shape.taps()]; batch and size
/// of the shape do not matter.
ARROW_QUANT_API size_t conv_panels_bytes(const ConvShape& shape);

/// Expand a weight whose parameters are not `fp16` into `panels`, conv_panels_bytes(shape) bytes.
/// Raises kShapeMismatch when sizes disagree.
ARROW_QUANT_API void make_conv_panels(const PackedWeightView& weight, const ConvShape& shape,
                                      int threads, std::span<uint8_t> panels);

}  // namespace arrow_quant
