#include "quantize/feedback_factor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "arrow_quant/error.h"
#include "quantize/calibrated_input.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::expect_error;

FeedbackFactor factor_of(const GramMatrix& gram, uint64_t tokens,
                         const FeedbackOptions& options = {}) {
  ThreadPool pool(2);
  return make_feedback_factor(gram, tokens, options, pool);
}

/// Ones on the diagonal and `beside` everywhere else.
GramMatrix constant_gram(size_t channels, float beside) {
  GramMatrix gram(channels);
  for (size_t i = 0; i < channels; ++i) {
    for (size_t j = i; j < channels; ++j) {
      gram.values()[i * channels + j] = i == j ? 1.0F : beside;
    }
  }
  return gram;
}

TEST(FeedbackFactor, MixesErrorsByTheTriangularFactorOfTheGramMatrix) {
  const size_t n = 300;  // more than one tile
  const GramMatrix gram = gram_of(correlated_tokens(4 * n, n), n);
  const FeedbackFactor factor = factor_of(gram, 4 * n);
  ASSERT_TRUE(factor.usable);
  EXPECT_EQ(factor.damping, 0.01);
  ASSERT_EQ(factor.blocks.size(), 1U);
  const FeedbackBlock& block = factor.blocks[0];
  double mean = 0;
  for (size_t i = 0; i < n; ++i) mean += gram.at(i, i) / static_cast<double>(n);
  const auto mix = [&](size_t s, size_t r) { return s == r ? 1.0 : block.mix[s * n + r]; };
  for (size_t i = 0; i < n; i += 7) {
    for (size_t j = 0; j <= i; j += 5) {
      double sum = 0;
      for (size_t k = 0; k <= j; ++k) sum += mix(i, k) * block.cost[k] * mix(j, k);
      const double expected =
          gram.at(block.order[i], block.order[j]) + (i == j ? 0.01 * mean : 0.0);
      EXPECT_NEAR(sum, expected, 1e-4 * mean) << i << ", " << j;
    }
  }
  for (size_t i = 1; i < n; ++i) {
    EXPECT_LE(factor.importance[block.order[i - 1]], factor.importance[block.order[i]]);
  }
}

TEST(FeedbackFactor, DampingIsAPartOfTheEnergyThatIsUncertain) {
  const size_t n = 300;
  const GramMatrix gram = gram_of(correlated_tokens(4 * n, n), n);
  const FeedbackFactor plain = factor_of(gram, 4 * n);
  const FeedbackFactor certain = factor_of(gram, 4 * n, {.uncertain = 0.25});
  EXPECT_EQ(certain.damping, 0.25 * plain.damping);
  EXPECT_EQ(certain.blocks[0].order, plain.blocks[0].order);
  for (size_t k = 0; k < n; ++k) EXPECT_LT(certain.blocks[0].cost[k], plain.blocks[0].cost[k]);
}

TEST(FeedbackFactor, OfEqualizedInputsIsThatOfTheirGramMatrix) {
  const size_t n = 300;
  const GramMatrix gram = gram_of(correlated_tokens(4 * n, n), n);
  const FeedbackFactor factor = factor_of(gram, 4 * n);
  std::vector<float> s(n / 3);  // three channels share a factor
  for (size_t j = 0; j < s.size(); ++j) s[j] = 0.25F + static_cast<float>(j % 7);
  const FeedbackFactor changed = equalized(factor, s, 3);
  const FeedbackBlock& block = changed.blocks[0];
  double mean = 0;
  for (size_t i = 0; i < n; ++i) mean += gram.at(i, i) / static_cast<double>(n);
  const auto mix = [&](size_t a, size_t b) { return a == b ? 1.0 : block.mix[a * n + b]; };
  for (size_t i = 0; i < n; i += 7) {
    for (size_t j = 0; j <= i; j += 5) {
      const uint32_t a = block.order[i], b = block.order[j];
      double sum = 0;
      for (size_t k = 0; k <= j; ++k) sum += mix(i, k) * block.cost[k] * mix(j, k);
      const double expected =
          (gram.at(a, b) + (i == j ? 0.01 * mean : 0.0)) / (s[a / 3] * s[b / 3]);
      EXPECT_NEAR(sum, expected, 2e-4 * mean / (s[a / 3] * s[b / 3])) << i << ", " << j;
    }
  }
  for (size_t c = 0; c < n; ++c) {
    const float square = s[c / 3] * s[c / 3];
    EXPECT_FLOAT_EQ(changed.importance[c], factor.importance[c] / square);
    EXPECT_FLOAT_EQ(changed.feedback_importance[c], factor.feedback_importance[c] / square);
  }
}

TEST(FeedbackFactor, DampsMoreForTwoBits) {
  const size_t n = 64;
  const GramMatrix gram = gram_of(correlated_tokens(8 * n, n), n);
  EXPECT_EQ(factor_of(gram, 8 * n, {.bit_width = 2}).damping, 0.03);
  EXPECT_EQ(factor_of(gram, 8 * n, {.bit_width = 4}).damping, 0.01);
  EXPECT_EQ(factor_of(gram, 8 * n, {.damping = 0.5, .bit_width = 2}).damping, 0.5);
}

TEST(FeedbackFactor, DampsByTheNumberOfTokens) {
  const size_t n = 64;
  for (const auto& [tokens, damping] :
       {std::pair{size_t{1}, 0.2}, {32, 0.2}, {100, 0.05}, {256, 0.01}, {2000, 0.01}}) {
    const FeedbackFactor factor = factor_of(gram_of(correlated_tokens(tokens, n), n), tokens);
    EXPECT_TRUE(factor.usable) << tokens;
    EXPECT_EQ(factor.damping, damping) << tokens;
    EXPECT_EQ(factor.rank_deficient, tokens < n) << tokens;
  }
}

TEST(FeedbackFactor, SeesThatManyTokensAreRepetitionsOfFew) {
  const size_t n = 128, distinct = 50;
  const std::vector<float> few = correlated_tokens(distinct, n);
  std::vector<float> tokens;
  for (int i = 0; i < 40; ++i) tokens.insert(tokens.end(), few.begin(), few.end());
  const FeedbackFactor factor = factor_of(gram_of(tokens, n), 40 * distinct);
  EXPECT_TRUE(factor.usable);
  EXPECT_TRUE(factor.rank_deficient);
  EXPECT_EQ(factor.damping, 0.2);
}

TEST(FeedbackFactor, ASteepSpectrumIsNoMissingRank) {
  const size_t n = 256;
  const FeedbackFactor factor = factor_of(gram_of(correlated_tokens(4 * n, n, 1.5), n), 4 * n);
  EXPECT_FALSE(factor.rank_deficient);
  EXPECT_EQ(factor.damping, 0.01);
}

TEST(FeedbackFactor, RaisesTheDampingUntilTheMatrixIsPositiveDefinite) {
  const FeedbackFactor factor = factor_of(constant_gram(8, 3.0F), 1000);
  EXPECT_TRUE(factor.usable);
  EXPECT_GE(factor.damping, 2.0);
  EXPECT_LE(factor.damping, 20.0);
}

TEST(FeedbackFactor, GivesUpOnAMatrixThatNoDampingHelpsAndSaysSo) {
  const FeedbackFactor factor = factor_of(constant_gram(8, 1e9F), 1000);
  EXPECT_FALSE(factor.usable);
  EXPECT_TRUE(factor.blocks.empty());
  EXPECT_NE(factor.warning.find("not positive definite"), std::string::npos) << factor.warning;
  EXPECT_EQ(factor.importance, std::vector<float>(8, 0.001F));
}

TEST(FeedbackFactor, RefusesNanAndInfinityAndNamesTheChannels) {
  for (float odd : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    GramMatrix gram = gram_of(correlated_tokens(40, 10), 10);
    gram.values()[3 * 10 + 7] = odd;
    expect_error(ErrorCode::kQuantization, {"NaN or Inf", "channels 3 and 7"},
                 [&] { factor_of(gram, 40); });
  }
}

TEST(FeedbackFactor, LeavesDeadChannelsAlone) {
  const size_t n = 40;
  std::vector<float> tokens = correlated_tokens(400, n);
  for (size_t t = 0; t < 400; ++t) tokens[t * n + 5] = tokens[t * n + 17] = 0.0F;
  const FeedbackFactor factor = factor_of(gram_of(tokens, n), 400);
  EXPECT_TRUE(factor.usable);
  EXPECT_EQ(factor.dead, 2U);
  const FeedbackBlock& block = factor.blocks[0];
  // Nothing is worth less: they come last in the order of rounding.
  EXPECT_EQ(block.order[0] + block.order[1], 5U + 17U);
  for (size_t s = 1; s < n; ++s) {
    EXPECT_EQ(block.mix[s * n], 0.0F);
    EXPECT_EQ(s > 1 ? block.mix[s * n + 1] : 0.0F, 0.0F);
  }
  const FeedbackFactor nothing = factor_of(GramMatrix(n), 400);
  EXPECT_TRUE(nothing.usable);
  EXPECT_EQ(nothing.dead, n);
}

TEST(FeedbackFactor, TreatsEveryDiagonalBlockByItself) {
  const size_t n = 600, size = 256;
  const std::vector<float> tokens = correlated_tokens(1200, n);
  const FeedbackFactor factor = factor_of(gram_of(tokens, n, size), 1200);
  ASSERT_EQ(factor.blocks.size(), 3U);
  std::vector<float> part;
  for (size_t t = 0; t < 1200; ++t) {
    part.insert(part.end(), tokens.begin() + static_cast<std::ptrdiff_t>(t * n + size),
                tokens.begin() + static_cast<std::ptrdiff_t>(t * n + 2 * size));
  }
  const FeedbackFactor alone = factor_of(gram_of(part, size), 1200);
  EXPECT_EQ(factor.blocks[1].begin, size);
  EXPECT_EQ(factor.blocks[1].order, alone.blocks[0].order);
  EXPECT_EQ(factor.blocks[2].size, n - 2 * size);
  for (size_t s = 0; s < size; ++s) {
    for (size_t r = 0; r < s; ++r) {
      ASSERT_NEAR(factor.blocks[1].mix[s * size + r], alone.blocks[0].mix[s * size + r], 1e-3);
    }
  }
}

}  // namespace
}  // namespace arrow_quant
