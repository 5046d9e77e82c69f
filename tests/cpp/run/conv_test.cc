// Convolutions on packed weights against the dequantized weight in double precision.
#include "arrow_quant/conv.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "arrow_quant/error.h"
#include "kernels/isa_fixture.h"
#include "run/packed_layer.h"

namespace arrow_quant {
namespace {

using testing::gaussian;
using testing::PackedLayer;

ARROW_QUANT_TEST_EVERY_ISA(Conv);

/// One output and, for its rounding errors, the largest it could be.
struct Expected {
  double value = 0, size = 0;
};

Expected expected(const PackedLayer& layer, const ConvCall& call, size_t b, size_t oy, size_t ox,
                  size_t o) {
  const ConvShape& s = call.shape;
  Expected e{call.bias == nullptr ? 0.0 : call.bias[o]};
  e.size = std::abs(e.value);
  for (size_t c = 0; c < s.channels; ++c) {
    for (size_t i = 0; i < s.kernel[0]; ++i) {
      for (size_t j = 0; j < s.kernel[1]; ++j) {
        // Wraps around below 0, and is then too large.
        const size_t y = oy * s.stride[0] + i * s.dilation[0] - s.padding[0];
        const size_t x = ox * s.stride[1] + j * s.dilation[1] - s.padding[1];
        if (y >= s.size[0] || x >= s.size[1]) continue;
        double in = call.x.f32[((b * s.size[0] + y) * s.size[1] + x) * s.channels + c];
        if (call.input_factors != nullptr) in *= call.input_factors[c];
        const size_t column = (c * s.kernel[0] + i) * s.kernel[1] + j;
        const double product = in * layer.restored[o * layer.weight.cols + column];
        e.value += product;
        e.size += std::abs(product);
      }
    }
  }
  return e;
}

const ConvShape kShapes[] = {
    {2, 8, 70, {5, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {1, 5, 3, {6, 6}, {3, 3}, {2, 2}, {1, 1}, {1, 1}},
    {1, 3, 65, {1, 40}, {1, 5}, {1, 3}, {0, 4}, {1, 2}},
    {3, 16, 8, {4, 4}, {1, 1}, {1, 1}, {0, 0}, {1, 1}},
    {1, 4, 4, {25, 20}, {2, 3}, {1, 2}, {2, 0}, {2, 1}},
};
const AffineSpec kSpecs[] = {{2, 64, ParamEncoding::kTwoLevel, Method::kRtn},
                             {4, 32, ParamEncoding::kTwoLevel, Method::kSearch},
                             {8, 64, ParamEncoding::kRow, Method::kRtn}};

TEST_P(Conv, WithThreePlanesIsAsGoodAsSinglePrecision) {
  for (const AffineSpec& spec : kSpecs) {
    for (const ConvShape& shape : kShapes) {
      const PackedLayer layer(spec, shape.outputs, shape.channels * shape.taps());
      const auto x = gaussian(shape.batch * shape.size[0] * shape.size[1] * shape.channels, 1);
      const auto bias = gaussian(shape.outputs, 2);
      const auto factors = gaussian(shape.channels, 3);
      const auto out = shape.output_size();
      std::vector<float> y(shape.batch * out[0] * out[1] * shape.outputs);
      const ConvCall call{shape, x.data(), y.data(), bias.data(), factors.data(), 3, 0, 2};
      conv2d(layer.weight, call);
      size_t i = 0;
      for (size_t b = 0; b < shape.batch; ++b) {
        for (size_t oy = 0; oy < out[0]; ++oy) {
          for (size_t ox = 0; ox < out[1]; ++ox) {
            for (size_t o = 0; o < shape.outputs; ++o, ++i) {
              const Expected e = expected(layer, call, b, oy, ox, o);
              // A scale is shared by a whole sample, whose largest value is about 4.
              ASSERT_NEAR(y[i], e.value, 2e-6 * (e.size + 4)) << b << " " << oy << " " << ox;
            }
          }
        }
      }
    }
  }
}

TEST_P(Conv, KeptPanelsGiveTheSameBytes) {
  const ConvShape shape = kShapes[0];
  const PackedLayer layer(kSpecs[1], shape.outputs, shape.channels * shape.taps());
  std::vector<uint8_t> panels(conv_panels_bytes(shape));
  make_conv_panels(layer.weight, shape, 2, panels);
  const auto x = gaussian(2 * 5 * 7 * 8, 4);
  std::vector<float> packed(2 * 5 * 7 * 70), kept(packed.size());
  ConvCall call{.shape = shape, .x = x.data(), .y = packed.data(), .planes = 1};
  conv2d(layer.weight, call);
  call.y = kept.data();
  call.threads = 3;
  conv2d({panels, layer.row_scales}, call);
  EXPECT_EQ(packed, kept);
}

TEST_P(Conv, EveryByteOfThePanelsIsWrittenWhateverWasThere) {
  for (const ConvShape& shape : kShapes) {  // of 3 and 5 channels, too: less than whole quads
    const PackedLayer layer(kSpecs[1], shape.outputs, shape.channels * shape.taps());
    std::vector<uint8_t> zeros(conv_panels_bytes(shape), 0), ones(zeros.size(), 0xFF);
    make_conv_panels(layer.weight, shape, 2, zeros);
    // Kernels keep memory between calls: fill it with other numbers.
    const PackedLayer other(kSpecs[2], 128, 64 * 9);
    const ConvShape large{1, 64, 128, {3, 3}, {3, 3}};
    std::vector<uint8_t> panels(conv_panels_bytes(large));
    make_conv_panels(other.weight, large, 1, panels);
    make_conv_panels(layer.weight, shape, 1, ones);
    EXPECT_EQ(zeros, ones);
  }
}

TEST_P(Conv, ASampleWithANanGivesNanAndLeavesTheOthersAlone) {
  const ConvShape shape{2, 4, 6, {3, 3}, {3, 3}, {1, 1}, {1, 1}, {1, 1}};
  const PackedLayer layer(kSpecs[2], 6, 36);
  auto x = gaussian(2 * 9 * 4, 5);
  x[9 * 4 + 7] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> y(2 * 9 * 6);
  conv2d(layer.weight, {.shape = shape, .x = x.data(), .y = y.data(), .planes = 1});
  for (size_t i = 0; i < 54; ++i) {
    EXPECT_TRUE(std::isfinite(y[i]));
    EXPECT_TRUE(std::isnan(y[54 + i]));
  }
}

TEST(ConvCalls, AKernelThatDoesNotFitGivesNoPixels) {
  const ConvShape shape{1, 4, 6, {2, 9}, {3, 3}, {1, 1}, {0, 0}, {1, 1}};
  EXPECT_EQ(shape.output_size()[0], 0U);
  const PackedLayer layer(kSpecs[2], 6, 36);
  const auto x = gaussian(2 * 9 * 4, 5);
  EXPECT_NO_THROW(conv2d(layer.weight, {.shape = shape, .x = x.data()}));
}

TEST(ConvCalls, RefusesWeightsOfAnotherShape) {
  const PackedLayer layer(kSpecs[2], 6, 36);
  const ConvShape shape{1, 5, 6, {3, 3}, {3, 3}};
  EXPECT_THROW(conv2d(layer.weight, {.shape = shape}), Error);
}

}  // namespace
}  // namespace arrow_quant
