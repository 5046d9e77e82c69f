// Layers on packed weights against the dequantized weight in double precision.
#include "arrow_quant/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "arrow_quant/error.h"
#include "kernels/isa_fixture.h"
#include "run/packed_layer.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::gaussian;
using testing::PackedLayer;

ARROW_QUANT_TEST_EVERY_ISA(Linear);

/// x W^T + bias and, for its rounding errors, the sum of the magnitudes of all products.
struct Expected {
  double value = 0, size = 0;
};

Expected expected(const PackedLayer& layer, const LinearCall& call, size_t t, size_t o) {
  Expected e{call.bias == nullptr ? 0.0 : call.bias[o]};
  e.size = std::abs(e.value);
  for (size_t i = 0; i < layer.weight.cols; ++i) {
    double x = call.x.f32[t * layer.weight.cols + i];
    if (call.input_factors != nullptr) x *= call.input_factors[i];
    const double product = x * layer.restored[o * layer.weight.cols + i];
    e.value += product;
    e.size += std::abs(product);
  }
  return e;
}

struct Shape {
  size_t tokens, outputs, inputs;
};

// Tails of every kind: of quads, groups, stretches of inputs, tiles of rows and panels.
constexpr Shape kShapes[] = {{1, 1, 1},
                             {1, 3, 130},
                             {2, 64, 64},
                             {5, 65, 257},
                             {7, 130, 96},
                             {13, 1, 512},
                             {3, 70, 2 * 1024 + 72},
                             {530, 5, 40}};

const AffineSpec kSpecs[] = {
    {2, 128, ParamEncoding::kTwoLevel, Method::kSearch},
    {4, 64, ParamEncoding::kTwoLevel, Method::kSearch},
    {4, 96, ParamEncoding::kTwoLevel, Method::kRtn},
    {2, 64, ParamEncoding::kResidualBinary, Method::kSearch},
    {2, 64, ParamEncoding::kFp16, Method::kSearch},
    {4, 32, ParamEncoding::kFp16, Method::kSearch},
    {8, 64, ParamEncoding::kFp16, Method::kRtn},
    {8, 64, ParamEncoding::kRow, Method::kRtn},
};

TEST_P(Linear, WithThreePlanesIsAsGoodAsSinglePrecision) {
  for (const AffineSpec& spec : kSpecs) {
    for (const Shape& shape : kShapes) {
      const PackedLayer layer(spec, shape.outputs, shape.inputs);
      const auto x = gaussian(shape.tokens * shape.inputs, 1);
      const auto bias = gaussian(shape.outputs, 2);
      const auto factors = gaussian(shape.inputs, 3);
      const size_t stride = shape.outputs + 3;
      std::vector<float> y(shape.tokens * stride, -9.0F);
      const LinearCall call{
          x.data(), y.data(), shape.tokens, stride, bias.data(), factors.data(), 3, 0, 2};
      linear(layer.weight, call);
      for (size_t t = 0; t < shape.tokens; ++t) {
        for (size_t o = 0; o < shape.outputs; ++o) {
          const auto [value, size] = expected(layer, call, t, o);
          ASSERT_NEAR(y[t * stride + o], value, 1e-6 * size + 1e-12)
              << shape.tokens << "x" << shape.outputs << "x" << shape.inputs << " INT"
              << spec.bit_width << " " << to_string(spec.param_encoding);
        }
        EXPECT_EQ(y[t * stride + shape.outputs], -9.0F) << "written past the row";
      }
    }
  }
}

TEST_P(Linear, OnePlaneIsExactForActivationsThatAreIntegers) {
  const PackedLayer layer({4, 64, ParamEncoding::kTwoLevel, Method::kSearch}, 40, 200);
  std::vector<float> x(3 * 200);
  std::mt19937 random(5);
  for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 255) - 127);
  for (size_t t = 0; t < 3; ++t) x[t * 200] = 127.0F;
  std::vector<float> y(3 * 40);
  const LinearCall call{.x = x.data(), .y = y.data(), .tokens = 3, .y_stride = 40, .planes = 1};
  linear(layer.weight, call);
  for (size_t t = 0; t < 3; ++t) {
    for (size_t o = 0; o < 40; ++o) {
      const auto [value, size] = expected(layer, call, t, o);
      ASSERT_NEAR(y[t * 40 + o], value, 1e-6 * size);
    }
  }
}

TEST_P(Linear, PanelsGiveTheSameBytesAsPackedCodes) {
  for (const AffineSpec& spec : kSpecs) {
    if (spec.param_encoding == ParamEncoding::kFp16) continue;
    const PackedLayer layer(spec, 70, 2100);
    std::vector<uint8_t> panels(panels_bytes(70, 2100));
    make_panels(layer.weight, 2, panels);
    const auto x = gaussian(9 * 2100, 4);
    for (int planes : {1, 2, 3}) {
      std::vector<float> packed(9 * 70), expanded(9 * 70);
      LinearCall call{.x = x.data(), .tokens = 9, .y_stride = 70, .planes = planes, .threads = 2};
      call.y = packed.data();
      linear(layer.weight, call);
      call.y = expanded.data();
      linear(PanelWeight{panels.data(), layer.row_scales.data(), 70, 2100}, call);
      EXPECT_EQ(packed, expanded);
    }
  }
}

TEST_P(Linear, ATokenWithANanGivesNanAndLeavesTheOthersAlone) {
  const PackedLayer layer({4, 64, ParamEncoding::kTwoLevel, Method::kSearch}, 20, 100);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (const int planes : {1, 3}) {
      auto x = gaussian(3 * 100, 6);
      x[100 + 99] = bad;
      std::vector<float> y(3 * 20);
      linear(layer.weight,
             {.x = x.data(), .y = y.data(), .tokens = 3, .y_stride = 20, .planes = planes});
      for (size_t o = 0; o < 20; ++o) {
        EXPECT_TRUE(std::isfinite(y[o]) && std::isfinite(y[40 + o]));
        EXPECT_TRUE(std::isnan(y[20 + o]));
      }
    }
  }
}

TEST_P(Linear, ZerosAndTinyActivationsGiveTheBias) {
  const PackedLayer layer({2, 64, ParamEncoding::kTwoLevel, Method::kSearch}, 20, 100);
  std::vector<float> x(2 * 100, 0.0F);
  x[100] = 1e-42F;
  const auto bias = gaussian(20, 8);
  std::vector<float> y(2 * 20);
  linear(layer.weight,
         {.x = x.data(), .y = y.data(), .tokens = 2, .y_stride = 20, .bias = bias.data()});
  for (size_t o = 0; o < 20; ++o) {
    EXPECT_EQ(y[o], bias[o]);
    EXPECT_NEAR(y[20 + o], bias[o], 1e-30F);
  }
}

TEST_P(Linear, AStaticScaleClampsWhatLiesBeyondIt) {
  const PackedLayer layer({8, 64, ParamEncoding::kRow, Method::kRtn}, 8, 64);
  std::vector<float> inside(64, 0.5F), beyond(64, 500.0F), limit(64, 1.27F);
  std::vector<float> a(8), b(8);
  LinearCall call{.tokens = 1, .y_stride = 8, .planes = 1, .activation_scale = 0.01F};
  call.x = beyond.data(), call.y = a.data();
  linear(layer.weight, call);
  call.x = limit.data(), call.y = b.data();
  linear(layer.weight, call);
  EXPECT_EQ(a, b);
}

TEST(LinearCalls, NoTokensIsNoWork) {
  const PackedLayer layer({4, 64, ParamEncoding::kTwoLevel, Method::kSearch}, 4, 8);
  EXPECT_NO_THROW(linear(layer.weight, {.y_stride = 4}));
}

TEST(LinearCalls, ThreadsDoNotChangeABit) {
  const PackedLayer layer({4, 32, ParamEncoding::kFp16, Method::kSearch}, 200, 300);
  const auto x = gaussian(600 * 300, 9);
  std::vector<float> one(600 * 200), many(600 * 200);
  linear(layer.weight, {.x = x.data(), .y = one.data(), .tokens = 600, .y_stride = 200});
  linear(layer.weight,
         {.x = x.data(), .y = many.data(), .tokens = 600, .y_stride = 200, .threads = 5});
  EXPECT_EQ(one, many);
}

TEST(LinearCalls, RefusesAWeightWhoseSubGroupsDoNotFillBytes) {
  // 14 codes of 2 bits end within a byte: the second sub-group would be read half a byte off.
  const std::vector<uint8_t> codes(28), params(8);
  const std::vector<uint16_t> scales(1, 0x3C00);
  const std::vector<PackedWeightView::Chunk> chunks = {{0, 1.0F, 1}};
  const PackedWeightView weight{.spec = {2, 56, ParamEncoding::kTwoLevel, Method::kRtn},
                                .rows = 1,
                                .cols = 112,
                                .codes = codes,
                                .params = params,
                                .row_scales = scales,
                                .chunks = chunks};
  const std::vector<float> x(112);
  float y = 0;
  testing::expect_error(ErrorCode::kConfiguration, {"group_size: 56", "multiple of 32"}, [&] {
    linear(weight, {.x = x.data(), .y = &y, .tokens = 1, .y_stride = 1});
  });
}

TEST(LinearCalls, RefusesWhatWouldOverflow) {
  const PackedWeightView wide{
      .spec = {8, 64, ParamEncoding::kRow, Method::kRtn}, .rows = 1, .cols = 65537};
  EXPECT_THROW(linear(wide, {.tokens = 1, .y_stride = 1}), Error);
  EXPECT_THROW(linear(wide, {.planes = 4}), Error);
}

}  // namespace
}  // namespace arrow_quant
