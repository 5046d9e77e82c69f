#include "kernels/encode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Encode);

constexpr float kNoLimit = std::numeric_limits<float>::infinity();

std::vector<float> normal_weights(size_t count, unsigned seed = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> weights(count);
  for (float& w : weights) w = normal(random);
  return weights;
}

int code_at(const std::vector<uint8_t>& packed, int bits, size_t i) {
  const size_t b = static_cast<size_t>(bits);
  return packed[i * b / 8] >> (i * b % 8) & ((1 << bits) - 1);
}

/// Every code is the nearest level, and the sums are those of the levels.
void check_groups(int bits, size_t count, size_t group, float factor, float limit) {
  SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(count) + " weights in groups of " +
               std::to_string(group));
  const std::vector<float> weights = normal_weights(count);
  const size_t groups = (count + group - 1) / group;
  const int top = (1 << bits) - 1;
  std::vector<float> step(groups), base(groups);
  for (size_t g = 0; g < groups; ++g) {
    step[g] = (4.0F + static_cast<float>(g % 3)) / static_cast<float>(top) * factor;
    base[g] = -2.0F * factor;
  }
  std::vector<uint8_t> codes((count * static_cast<size_t>(bits) + 7) / 8 + 1, 0xCC);
  ErrorSums sums;
  encode_groups(bits, weights.data(), count, factor, {step.data(), base.data(), group}, limit,
                codes.data(), sums);
  EXPECT_EQ(codes.back(), 0xCC) << "written past the end";
  ErrorSums expected;
  for (size_t i = 0; i < count; ++i) {
    const size_t g = i / group;
    const double x = static_cast<double>(weights[i]) * factor;
    const int code = code_at(codes, bits, i);
    const double exact = (x - base[g]) / step[g];
    ASSERT_LE(std::abs(std::clamp(exact, 0.0, static_cast<double>(top)) - code), 0.5 + 1e-5) << i;
    const double level = static_cast<double>(step[g]) * code + base[g];
    const double v = std::clamp<double>(level, -limit, limit);
    expected.add({x * x, v * v, x * v, (x - v) * (x - v), 1});
  }
  EXPECT_EQ(sums.count, count);
  EXPECT_NEAR(sums.ww, expected.ww, 1e-6 * expected.ww);
  EXPECT_NEAR(sums.vv, expected.vv, 1e-6 * expected.ww);
  EXPECT_NEAR(sums.wv, expected.wv, 1e-6 * expected.ww);
  EXPECT_NEAR(sums.err, expected.err, 2e-6 * expected.err + 1e-9 * expected.ww);
}

TEST_P(Encode, FindsTheNearestLevelOfEveryGroup) {
  for (int bits : {2, 4, 8}) {
    for (size_t group : {8, 16, 24, 32, 64, 128, 1024, 3000}) {
      for (size_t count : {1, 7, 8, 9, 31, 64, 100, 1023, 1024, 1025, 4096, 5001}) {
        check_groups(bits, count, group, 0.25F, kNoLimit);
      }
    }
    check_groups(bits, 3000, 16, 1.0F, 1.5F);
  }
}

TEST_P(Encode, SpecialValuesGiveSomeCode) {
  std::vector<float> weights(40, 0.1F);
  weights[3] = std::nanf("");
  weights[20] = HUGE_VALF;
  weights[39] = -HUGE_VALF;
  const float step = 0.1F, base = -0.8F;
  std::vector<uint8_t> codes(20);
  ErrorSums sums;
  encode_groups(4, weights.data(), 40, 1.0F, {&step, &base, 64}, kNoLimit, codes.data(), sums);
  EXPECT_EQ(code_at(codes, 4, 20), 15);
  EXPECT_EQ(code_at(codes, 4, 39), 0);
  EXPECT_EQ(code_at(codes, 4, 0), 9);
}

TEST_P(Encode, RoundsSignedBytesAndLimitsThemTo127) {
  for (size_t count : {1, 15, 16, 100, 2049}) {
    const std::vector<float> weights = normal_weights(count);
    std::vector<uint8_t> codes(count + 1, 0xCC);
    ErrorSums sums;
    encode_int8(weights.data(), count, 2.0F, 0.03F, codes.data(), sums);
    double err = 0;
    for (size_t i = 0; i < count; ++i) {
      const double x = 2.0 * weights[i];
      const int code = static_cast<int8_t>(codes[i]);
      const double wanted = std::clamp(x / 0.03F, -127.0, 127.0);
      EXPECT_LE(std::abs(wanted - code), 0.5 + 1e-5);
      err += (x - 0.03F * code) * (x - 0.03F * code);
    }
    EXPECT_NEAR(sums.err, err, 1e-5 * err);
    EXPECT_EQ(codes.back(), 0xCC);
  }
}

TEST_P(Encode, ComparesFourInt8ScalesAtOnce) {
  const float scales[4] = {0.01F, 0.02F, 0.03F, 0.5F};
  for (size_t count : {1, 17, 1024, 3001}) {
    const std::vector<float> weights = normal_weights(count);
    std::vector<float> importance = normal_weights(count, 5);
    for (float& h : importance) h = h * h;
    for (const float* h :
         {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
      double errors[4];
      int8_errors(weights.data(), h, count, 0.5F, scales, errors);
      for (size_t k = 0; k < 4; ++k) {
        double expected = 0;
        for (size_t i = 0; i < count; ++i) {
          const double x = 0.5 * weights[i], scale = scales[k];
          const double v = std::clamp(std::nearbyint(x / scale), -127.0, 127.0) * scale;
          expected += (h != nullptr ? h[i] : 1.0) * (x - v) * (x - v);
        }
        EXPECT_NEAR(errors[k], expected, 1e-4 * expected + 1e-12);
      }
    }
  }
}

}  // namespace
}  // namespace arrow_quant
