// Images as integers, padded, so that every tap of a convolution finds its pixels in one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arrow_quant/conv.h"
#include "kernels/activations.h"

namespace arrow_quant {

/// Integers of all samples: [batch][plane][padded height][padded width][channels in whole quads].
class IntegerImage {
 public:
  explicit IntegerImage(const ConvCall& call);

  int planes() const noexcept { return planes_; }
  size_t quads() const noexcept { return channels_ / 4; }

  /// Channels of the pixel that tap (i, j) of an output pixel reads. Output pixels are numbered
  /// through all samples.
  const int8_t* pixel(size_t output, int plane, size_t i, size_t j) const noexcept;

  /// Scale of an output pixel's sample, and the sums of what all its taps read.
  TokenSums sums(size_t output) const noexcept;

 private:
  struct Place {
    size_t sample, row, column;  ///< of the first tap, padded
  };
  Place place(size_t output) const noexcept;
  size_t at(size_t sample, int plane, size_t row, size_t column) const noexcept;
  void quantize_row(const ConvCall& call, const float* factors, size_t sample, size_t row) noexcept;

  ConvShape shape_;
  int planes_;
  size_t channels_;  ///< in whole quads
  std::array<size_t, 2> padded_, out_;
  std::vector<int8_t> bytes_;
  std::vector<int32_t> pixel_sums_;  ///< over the channels, [batch][plane][height][width], padded
  std::vector<float> scales_;        ///< of samples
};

}  // namespace arrow_quant
