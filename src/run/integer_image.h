// Images as integers, padded, so that every tap of a convolution finds its pixels in one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/conv.h"
#include "kernels/activations.h"
#include "run/reused_buffer.h"

namespace arrow_quant {

/// Integers of all samples: [batch][plane][padded height][padded width][channels in whole quads].
class IntegerImage {
 public:
  explicit IntegerImage(const ConvCall& call);

  int planes() const noexcept { return planes_; }
  size_t quads() const noexcept { return channels_ / 4; }

  /// Channels of the pixel that the first tap of an output pixel reads. Output pixels are numbered
  /// through all samples.
  const int8_t* first_tap(size_t output, int plane) const noexcept;

  /// From the first tap of any output pixel to each of its taps, in bytes.
  std::span<const ptrdiff_t> taps() const noexcept { return taps_; }

  /// The scale of every output pixel's sample, and the sums of what all its taps read.
  const TokenSums* sums() const noexcept { return sums_.data(); }

 private:
  size_t at(size_t sample, int plane, size_t row, size_t column) const noexcept;
  void find_scales(const ConvCall& call, const float* factors);
  void quantize_row(const ConvCall& call, const float* factors, size_t sample, size_t padded_row);
  void sum_row(size_t sample, size_t row) noexcept;

  ConvShape shape_;
  int planes_;
  size_t channels_;  ///< in whole quads
  std::array<size_t, 2> padded_, out_;
  size_t pixels_;  ///< of all byte limbs, padded
  ReusedBuffer<int8_t> bytes_;
  ReusedBuffer<int32_t> pixel_sums_;  ///< over the channels, [batch][plane][height][width], padded
  std::vector<float> scales_;         ///< of samples
  std::vector<ptrdiff_t> taps_;
  std::vector<TokenSums> sums_;
};

}  // namespace arrow_quant
