#include "kernels/rtn.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Rtn);

std::vector<float> random_values(size_t count, float scale = 1.0F) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

TEST_P(Rtn, FindsTheRangeOfEveryGroup) {
  for (size_t group : {8, 16, 24, 32, 64, 128, 1000}) {
    for (size_t count : {1, 7, 8, 17, 64, 100, 1023, 2048, 4100}) {
      const std::vector<float> values = random_values(count);
      const size_t groups = (count + group - 1) / group;
      std::vector<float> low(groups), high(groups);
      group_ranges(values.data(), count, group, low.data(), high.data());
      for (size_t g = 0; g < groups; ++g) {
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(g * group);
        const auto end =
            values.begin() + static_cast<std::ptrdiff_t>(std::min(count, (g + 1) * group));
        ASSERT_EQ(low[g], *std::min_element(begin, end)) << group << " " << count << " " << g;
        ASSERT_EQ(high[g], *std::max_element(begin, end)) << group << " " << count << " " << g;
      }
    }
  }
}

TEST_P(Rtn, SummarizesRangesWithoutOverflow) {
  for (size_t groups : {1, 5, 16, 33}) {
    std::vector<float> low(groups, -1.0F), high(groups, 2.0F);
    low[groups / 2] = -3e38F;
    high[groups / 2] = 3e38F;
    const RangeSummary all = summarize_ranges(low.data(), high.data(), groups, 0x1p-120F);
    EXPECT_EQ(all.high, 3e38F * 0x1p-120F);
    EXPECT_EQ(all.low, -3e38F * 0x1p-120F);
    EXPECT_EQ(all.width, 2 * all.high);
  }
  const float low = 1.0F, high = 2.0F;
  EXPECT_EQ(summarize_ranges(&low, &high, 1, 1.0F).low, 0.0F) << "never inside zero";
}

TEST_P(Rtn, SpansRangesFromTheLowestToTheHighestLevel) {
  const std::vector<float> low = {-1.0F, 0.5F, 3.0F}, high = {2.0F, 0.5F, 18.0F};
  std::vector<float> step(3), base(3);
  range_levels(4, low.data(), high.data(), 3, 2.0F, step.data(), base.data());
  EXPECT_EQ(base, (std::vector<float>{-2.0F, 1.0F, 6.0F}));
  EXPECT_EQ(step, (std::vector<float>{0.4F, 0.0F, 2.0F}));
}

TEST_P(Rtn, CoversRangesWithTheSmallestTwoLevelStep) {
  for (int bits : {2, 4}) {
    const float half = static_cast<float>(1 << (bits - 1));
    const TwoLevelRow row{bits, 3.0F, 0.01F};
    const size_t groups = 501;
    std::vector<float> low = random_values(groups, 0.05F), high(groups);
    for (size_t g = 0; g < groups; ++g) {
      high[g] = low[g] + std::abs(random_values(groups + g, 0.1F)[g]);
    }
    low[77] = high[77] = 0.0F;
    std::vector<uint8_t> params(groups + 1, 0xCC);
    two_level_params(row, low.data(), high.data(), groups, 1.0F, params.data());
    EXPECT_EQ(params[groups], 0xCC);
    EXPECT_EQ(params[77], 0x80) << "zeros: q = 1, z = 0";
    std::vector<float> step(groups), base(groups);
    two_level_levels(row, params.data(), groups, step.data(), base.data());
    for (size_t g = 0; g < groups; ++g) {
      const int q = params[g] % 16 + 1, z = params[g] / 16 - 8;
      EXPECT_FLOAT_EQ(step[g], 0.01F * static_cast<float>(q));
      EXPECT_FLOAT_EQ(base[g],
                      0.01F * (3.0F * static_cast<float>(z) - half * static_cast<float>(q)));
      if (q == 16 || g == 77) continue;  // the scale is too small for this range
      const float reach = 0.51F * step[g];
      EXPECT_GE(low[g], base[g] - reach) << g;
      EXPECT_LE(high[g], base[g] + (2.0F * half - 1.0F) * step[g] + reach) << g;
    }
  }
}

}  // namespace
}  // namespace arrow_quant
