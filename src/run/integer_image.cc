#include "run/integer_image.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"

namespace arrow_quant {
namespace {

/// Factors of all channels of a row of pixels, one after the other; empty for none.
std::vector<float> row_factors(const ConvCall& call) {
  std::vector<float> factors;
  if (call.input_factors == nullptr) return factors;
  const size_t channels = call.shape.channels;
  factors.resize(channels * call.shape.size[1]);
  for (size_t i = 0; i < factors.size(); ++i) factors[i] = call.input_factors[i % channels];
  return factors;
}

}  // namespace

IntegerImage::IntegerImage(const ConvCall& call)
    : shape_(call.shape),
      planes_(call.planes),
      channels_((call.shape.channels + 3) / 4 * 4),
      padded_{shape_.size[0] + 2 * shape_.padding[0], shape_.size[1] + 2 * shape_.padding[1]},
      out_(shape_.output_size()) {
  const size_t pixels = shape_.batch * static_cast<size_t>(planes_) * padded_[0] * padded_[1];
  bytes_.resize(pixels * channels_);
  pixel_sums_.resize(pixels);
  scales_.resize(shape_.batch);
  const std::vector<float> factors = row_factors(call);
  const float* by_channel = factors.empty() ? nullptr : factors.data();
  const size_t height = shape_.size[0], row_values = shape_.size[1] * shape_.channels;

  std::vector<float> largest(shape_.batch * height);
  parallel_blocks(call.threads, largest.size(), [&](size_t row) {
    largest[row] = token_absmax(call.x + row * row_values, by_channel, row_values);
  });
  for (size_t b = 0; b < shape_.batch; ++b) {
    float most = 0;
    for (size_t r = 0; r < height; ++r) {
      const float row = largest[b * height + r];
      if (!(row <= most)) most = row;
      if (std::isnan(most)) break;
    }
    scales_[b] = most / static_cast<float>(largest_integer(planes_));
    if (call.activation_scale > 0) scales_[b] = call.activation_scale;
    if (!std::isfinite(most)) scales_[b] = std::numeric_limits<float>::quiet_NaN();
  }
  parallel_blocks(call.threads, largest.size(),
                  [&](size_t row) { quantize_row(call, by_channel, row / height, row % height); });
}

size_t IntegerImage::at(size_t sample, int plane, size_t row, size_t column) const noexcept {
  const size_t image = sample * static_cast<size_t>(planes_) + static_cast<size_t>(plane);
  return (image * padded_[0] + row) * padded_[1] + column;
}

void IntegerImage::quantize_row(const ConvCall& call, const float* factors, size_t sample,
                                size_t row) noexcept {
  const size_t width = shape_.size[1], channels = shape_.channels;
  const float* x = call.x + (sample * shape_.size[0] + row) * width * channels;
  const size_t first = at(sample, 0, row + shape_.padding[0], shape_.padding[1]);
  const size_t plane_bytes = padded_[0] * padded_[1] * channels_;
  if (channels == channels_) {
    quantize_token(x, factors, width * channels, scales_[sample], planes_, plane_bytes,
                   bytes_.data() + first * channels_);
  } else {
    for (size_t c = 0; c < width; ++c) {
      quantize_token(x + c * channels, factors, channels, scales_[sample], planes_, plane_bytes,
                     bytes_.data() + (first + c) * channels_);
    }
  }
  for (int p = 0; p < planes_; ++p) {
    const size_t begin = at(sample, p, row + shape_.padding[0], shape_.padding[1]);
    for (size_t c = 0; c < width; ++c) {
      pixel_sums_[begin + c] = sum_bytes(bytes_.data() + (begin + c) * channels_, channels_);
    }
  }
}

IntegerImage::Place IntegerImage::place(size_t output) const noexcept {
  const size_t column = output % out_[1], rest = output / out_[1];
  return {rest / out_[0], rest % out_[0] * shape_.stride[0], column * shape_.stride[1]};
}

const int8_t* IntegerImage::pixel(size_t output, int plane, size_t i, size_t j) const noexcept {
  const Place p = place(output);
  const size_t number =
      at(p.sample, plane, p.row + i * shape_.dilation[0], p.column + j * shape_.dilation[1]);
  return bytes_.data() + number * channels_;
}

TokenSums IntegerImage::sums(size_t output) const noexcept {
  const Place p = place(output);
  TokenSums token{.scale = scales_[p.sample]};
  for (int plane = 0; plane < planes_; ++plane) {
    for (size_t i = 0; i < shape_.kernel[0]; ++i) {
      for (size_t j = 0; j < shape_.kernel[1]; ++j) {
        token.sums[plane] += pixel_sums_[at(p.sample, plane, p.row + i * shape_.dilation[0],
                                            p.column + j * shape_.dilation[1])];
      }
    }
  }
  return token;
}

}  // namespace arrow_quant
