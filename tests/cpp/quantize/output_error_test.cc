#include "quantize/output_error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "quantize/calibrated_input.h"

namespace arrow_quant {
namespace {

/// Sums over the outputs themselves, in double.
OutputSums direct_sums(const float* w, const float* v, const std::vector<float>& tokens,
                       size_t channels, uint64_t block = 0) {
  OutputSums sums;
  for (size_t t = 0; t < tokens.size(); t += channels) {
    // Channels of different blocks count as uncorrelated: as if each block had tokens of its own.
    const size_t step = block == 0 ? channels : block;
    for (size_t begin = 0; begin < channels; begin += step) {
      double y = 0, z = 0;
      for (size_t c = begin; c < std::min(begin + step, channels); ++c) {
        y += double{w[c]} * tokens[t + c];
        z += double{v[c]} * tokens[t + c];
      }
      sums.add({y * y, y * (y - z), (y - z) * (y - z)});
    }
  }
  return sums;
}

std::vector<float> rounded(const Matrix& matrix) {
  std::vector<float> v = matrix.values;
  for (float& x : v) x = std::round(4 * x) / 4;
  return v;
}

TEST(OutputError, IsThatOfTheOutputsThemselves) {
  for (uint64_t block : {uint64_t{0}, uint64_t{256}}) {
    const size_t channels = 700, rows = 5;
    const std::vector<float> tokens = correlated_tokens(90, channels);
    const GramMatrix gram = gram_of(tokens, channels, block);
    const Matrix matrix = random_matrix(rows, channels);
    const std::vector<float> v = rounded(matrix);
    ThreadPool pool(2);
    const std::vector<OutputSums> found = output_sums(gram, matrix.values, v, pool);
    ASSERT_EQ(found.size(), rows);
    for (size_t r = 0; r < rows; ++r) {
      const OutputSums expected = direct_sums(matrix.values.data() + r * channels,
                                              v.data() + r * channels, tokens, channels, block);
      EXPECT_NEAR(found[r].yy, expected.yy, 1e-4 * expected.yy);
      EXPECT_NEAR(found[r].zz(), expected.zz(), 1e-4 * expected.yy);
      EXPECT_NEAR(found[r].yz(), expected.yz(), 1e-4 * expected.yy);
      EXPECT_NEAR(found[r].err, expected.err, 1e-4 * expected.err);
    }
  }
}

TEST(OutputError, IsZeroForWeightsThatDidNotChange) {
  const GramMatrix gram = gram_of(correlated_tokens(100, 60), 60);
  const Matrix matrix = random_matrix(3, 60);
  ThreadPool pool(1);
  const OutputSums same = total(output_sums(gram, matrix.values, matrix.values, pool));
  EXPECT_EQ(same.nmse(), 0.0);
  EXPECT_NEAR(same.cosine(), 1.0, 1e-12);
  const std::vector<float> zeros(3 * 60, 0.0F);
  EXPECT_EQ(total(output_sums(gram, zeros, zeros, pool)).cosine(), 1.0);
}

TEST(OutputError, FollowsAScaleWithoutBeingSummedAgain) {
  const GramMatrix gram = gram_of(correlated_tokens(100, 60), 60);
  const Matrix matrix = random_matrix(3, 60);
  std::vector<float> v = rounded(matrix);
  ThreadPool pool(1);
  const OutputSums before = total(output_sums(gram, matrix.values, v, pool));
  for (float& x : v) x *= 1.25F;
  const OutputSums expected = total(output_sums(gram, matrix.values, v, pool));
  const OutputSums found = before.scaled(1.25);
  EXPECT_NEAR(found.zz(), expected.zz(), 1e-5 * expected.zz());
  EXPECT_NEAR(found.yz(), expected.yz(), 1e-5 * expected.yz());
  EXPECT_NEAR(found.err, expected.err, 1e-4 * expected.err);
}

TEST(OutputError, GivesTheSameBitsForAnyNumberOfThreads) {
  const GramMatrix gram = gram_of(correlated_tokens(300, 300), 300);
  const Matrix matrix = random_matrix(700, 300);
  const std::vector<float> v = rounded(matrix);
  std::vector<std::vector<OutputSums>> results;
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    results.push_back(output_sums(gram, matrix.values, v, pool));
  }
  for (const auto& result : results) {
    for (size_t r = 0; r < 700; ++r) {
      ASSERT_EQ(result[r].err, results[0][r].err);
      ASSERT_EQ(result[r].ye, results[0][r].ye);
    }
  }
}

}  // namespace
}  // namespace arrow_quant
