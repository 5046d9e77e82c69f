#include "run/integer_image.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "run/float_rows.h"

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
      out_(shape_.output_size()),
      pixels_(shape_.batch * static_cast<size_t>(planes_) * padded_[0] * padded_[1]),
      bytes_(pixels_ * channels_),
      pixel_sums_(pixels_),
      scales_(shape_.batch),
      sums_(shape_.batch * out_[0] * out_[1]) {
  const std::vector<float> factors = row_factors(call);
  const float* by_channel = factors.empty() ? nullptr : factors.data();
  find_scales(call, by_channel);
  parallel_blocks(call.threads, shape_.batch * padded_[0], [&](size_t row) {
    quantize_row(call, by_channel, row / padded_[0], row % padded_[0]);
  });
  for (size_t i = 0; i < shape_.kernel[0]; ++i) {
    for (size_t j = 0; j < shape_.kernel[1]; ++j) {
      taps_.push_back(static_cast<ptrdiff_t>(
          (i * shape_.dilation[0] * padded_[1] + j * shape_.dilation[1]) * channels_));
    }
  }
  parallel_blocks(call.threads, shape_.batch * out_[0],
                  [&](size_t row) { sum_row(row / out_[0], row % out_[0]); });
}

void IntegerImage::find_scales(const ConvCall& call, const float* factors) {
  const size_t height = shape_.size[0], row_values = shape_.size[1] * shape_.channels;
  std::vector<float> largest(shape_.batch * height);
  parallel_blocks(call.threads, largest.size(), [&](size_t row) {
    FloatRows x(call.x, row_values);
    largest[row] = token_absmax(x.row(row * row_values, row_values), factors, row_values);
  });
  for (size_t b = 0; b < shape_.batch; ++b) {
    float max_abs = 0;
    for (size_t r = 0; r < height; ++r) {
      const float row = largest[b * height + r];
      if (!(row <= max_abs)) max_abs = row;
      if (std::isnan(max_abs)) break;
    }
    scales_[b] = max_abs / static_cast<float>(largest_integer(planes_));
    if (call.activation_scale > 0) scales_[b] = call.activation_scale;
    if (!std::isfinite(max_abs)) scales_[b] = std::numeric_limits<float>::quiet_NaN();
  }
}

size_t IntegerImage::at(size_t sample, int plane, size_t row, size_t column) const noexcept {
  const size_t image = sample * static_cast<size_t>(planes_) + static_cast<size_t>(plane);
  return (image * padded_[0] + row) * padded_[1] + column;
}

void IntegerImage::quantize_row(const ConvCall& call, const float* factors, size_t sample,
                                size_t padded_row) {
  const size_t width = shape_.size[1], channels = shape_.channels, side = shape_.padding[1];
  const size_t row = padded_row - shape_.padding[0];  // wraps round above the image
  if (row >= shape_.size[0]) {
    for (int p = 0; p < planes_; ++p) {
      const size_t begin = at(sample, p, padded_row, 0);
      std::fill_n(bytes_.data() + begin * channels_, padded_[1] * channels_, int8_t{0});
      std::fill_n(pixel_sums_.data() + begin, padded_[1], 0);
    }
    return;
  }
  for (int p = 0; p < planes_; ++p) {
    int8_t* bytes = bytes_.data() + at(sample, p, padded_row, 0) * channels_;
    // The sides, and with them whatever fills channels up to whole quads.
    const size_t rest = channels == channels_ ? (side + width) * channels_ : 0;
    std::fill_n(bytes, rest == 0 ? padded_[1] * channels_ : side * channels_, int8_t{0});
    if (rest != 0) std::fill_n(bytes + rest, side * channels_, int8_t{0});
  }
  FloatRows rows(call.x, width * channels);
  const float* x = rows.row((sample * shape_.size[0] + row) * width * channels, width * channels);
  const size_t first = at(sample, 0, padded_row, side);
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
    const size_t begin = at(sample, p, padded_row, 0);
    for (size_t c = begin; c < begin + padded_[1]; ++c) {
      pixel_sums_.data()[c] = sum_bytes(bytes_.data() + c * channels_, channels_);
    }
  }
}

const int8_t* IntegerImage::first_tap(size_t output, int plane) const noexcept {
  const size_t column = output % out_[1], rest = output / out_[1];
  const size_t sample = rest / out_[0], row = rest % out_[0];
  return bytes_.data() +
         at(sample, plane, row * shape_.stride[0], column * shape_.stride[1]) * channels_;
}

void IntegerImage::sum_row(size_t sample, size_t row) noexcept {
  TokenSums* sums = sums_.data() + (sample * out_[0] + row) * out_[1];
  for (size_t column = 0; column < out_[1]; ++column) sums[column] = {.scale = scales_[sample]};
  for (int plane = 0; plane < planes_; ++plane) {
    for (size_t i = 0; i < shape_.kernel[0]; ++i) {
      for (size_t j = 0; j < shape_.kernel[1]; ++j) {
        const int32_t* from =
            pixel_sums_.data() + at(sample, plane, row * shape_.stride[0] + i * shape_.dilation[0],
                                    j * shape_.dilation[1]);
        for (size_t column = 0; column < out_[1]; ++column) {
          sums[column].sums[plane] += from[column * shape_.stride[1]];
        }
      }
    }
  }
}

}  // namespace arrow_quant
