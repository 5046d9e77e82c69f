#include "kernels/moments.h"

#include <cmath>
#include <random>
#include <vector>

#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Moments);

TEST_P(Moments, UpdateRangeAndSumsOfEveryChannel) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(3.0F);
  for (size_t channels : {1, 3, 16, 37}) {
    for (size_t tokens : {1, 255, 600}) {
      const size_t stride = channels + 2;
      std::vector<float> x(tokens * stride);
      for (float& v : x) v = normal(random);
      std::vector<float> low(channels, 2.9F), high(channels, 3.1F);
      std::vector<double> sum(channels, 1.0), squares(channels, 2.0);
      add_moments(x.data(), tokens, channels, stride,
                  {low.data(), high.data(), sum.data(), squares.data()});
      for (size_t c = 0; c < channels; ++c) {
        float lowest = 2.9F, highest = 3.1F;
        double s = 1.0, q = 2.0;
        for (size_t t = 0; t < tokens; ++t) {
          const float v = x[t * stride + c];
          lowest = std::min(lowest, v), highest = std::max(highest, v);
          s += double{v}, q += double{v} * double{v};
        }
        EXPECT_EQ(low[c], lowest);
        EXPECT_EQ(high[c], highest);
        EXPECT_NEAR(sum[c], s, 1e-5 * s);
        EXPECT_NEAR(squares[c], q, 1e-5 * q);
      }
    }
  }
}

}  // namespace
}  // namespace arrow_quant
