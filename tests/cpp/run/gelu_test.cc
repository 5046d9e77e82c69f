// GELU against double precision.
#include "arrow_quant/gelu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "core/half.h"
#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Gelu);

double expected(double x) {
  const double u = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return x / (1 + std::exp(-2 * u));
}

/// Both signs, from tiny to where the sigmoid is 0 or 1, and an odd number of them.
std::vector<float> numbers() {
  std::vector<float> x = {0.0F, -0.0F, 1e-30F, -1e-30F, 300.0F, -300.0F, 1e30F};
  for (int i = -2000; i <= 2000; ++i) x.push_back(0.01F * static_cast<float>(i));
  return x;
}

TEST_P(Gelu, AgreesWithDoublePrecision) {
  const std::vector<float> x = numbers();
  std::vector<float> y(x.size() + 1, -9.0F);
  gelu_tanh({x.data(), y.data(), x.size(), 2});
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = expected(static_cast<double>(x[i]));
    const double x_size = std::abs(static_cast<double>(x[i])), size = std::abs(value);
    const double powers = size > 0 ? std::log(x_size / size) : 0;
    ASSERT_NEAR(y[i], value, (1e-6 + 1.5e-7 * powers) * size + 2e-38 * x_size) << "of " << x[i];
  }
  EXPECT_EQ(y.back(), -9.0F) << "written past the end";
}

TEST_P(Gelu, BadNumbersStayBad) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {nan, 1.0F, std::numeric_limits<float>::infinity()};
  std::vector<float> y(3);
  gelu_tanh({x.data(), y.data(), 3});
  EXPECT_TRUE(std::isnan(y[0]) && std::isfinite(y[1]) && std::isinf(y[2]));
}

TEST_P(Gelu, HalfPrecisionIsReadAndWrittenRounded) {
  std::vector<uint16_t> bits, out;
  std::vector<float> x;
  for (const float number : numbers()) {
    x.push_back(bf16_to_f32(bits.emplace_back(f32_to_bf16(number))));
  }
  std::vector<float> y(x.size());
  out.resize(x.size());
  gelu_tanh({x.data(), y.data(), x.size(), 1});
  gelu_tanh({bits.data(), out.data(), x.size(), 1});
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(out[i], f32_to_bf16(y[i]));
}

}  // namespace
}  // namespace arrow_quant
