#include "quantize/row_gain.h"

#include <gtest/gtest.h>

#include <vector>

#include "quantize/calibrated_input.h"
#include "quantize/error_feedback.h"
#include "quantize/output_error.h"

namespace arrow_quant {
namespace {

constexpr size_t kRows = 20, kCols = 128;

struct GainLayer {
  Matrix matrix = random_matrix(kRows, kCols);
  GramMatrix gram = gram_of(correlated_tokens(600, kCols), kCols);
  ThreadPool pool{1};
  FeedbackFactor factor = make_feedback_factor(gram, 600, {}, pool);

  std::vector<OutputSums> sums(const AffineSpec& spec, const QuantizedChunk& chunk) {
    return output_sums(gram, matrix.values, restore(spec, chunk, kCols), pool);
  }
};

constexpr AffineSpec kSpecs[] = {{2, 64, ParamEncoding::kTwoLevel, Method::kGptq},
                                 {2, 64, ParamEncoding::kFp16, Method::kGptq},
                                 {2, 64, ParamEncoding::kResidualBinary, Method::kR2q}};

TEST(RowGain, BringsTheSlopeOfTheOutputsToOne) {
  GainLayer layer;
  for (const AffineSpec& spec : kSpecs) {
    SCOPED_TRACE(describe(spec));
    QuantizedChunk chunk =
        quantize_chunk_with_feedback(spec, layer.matrix.values, kRows, layer.factor, layer.pool);
    const std::vector<float> gains = row_gains(RowGain::kUnitSlope, layer.sums(spec, chunk));
    const ByteBuffer codes = chunk.codes;
    ASSERT_TRUE(apply_row_gains(spec, kCols, gains, chunk));
    EXPECT_EQ(chunk.codes, codes);
    for (const OutputSums& row : layer.sums(spec, chunk)) EXPECT_NEAR(row.yz() / row.yy, 1.0, 2e-3);
  }
}

TEST(RowGain, OfLeastSquaresLowersTheErrorOfEveryRow) {
  GainLayer layer;
  for (const AffineSpec& spec : kSpecs) {
    SCOPED_TRACE(describe(spec));
    QuantizedChunk chunk =
        quantize_chunk_with_feedback(spec, layer.matrix.values, kRows, layer.factor, layer.pool);
    const std::vector<OutputSums> before = layer.sums(spec, chunk);
    ASSERT_TRUE(apply_row_gains(spec, kCols, row_gains(RowGain::kLeastSquares, before), chunk));
    const std::vector<OutputSums> after = layer.sums(spec, chunk);
    for (size_t r = 0; r < kRows; ++r) EXPECT_LE(after[r].err, before[r].err * 1.01);
    EXPECT_LT(total(after).err, total(before).err);
  }
}

TEST(RowGain, IsOneWhereThereIsNothingToGoBy) {
  const std::vector<OutputSums> rows = {{}, {.yy = 1, .ye = 1.5}, {.yy = 9, .ye = 9 - 1e-9}};
  EXPECT_EQ(row_gains(RowGain::kUnitSlope, rows), (std::vector<float>{1.0F, 1.0F, 2.0F}));
}

TEST(RowGain, LeavesTheChunkAloneWhenAParameterLeavesTheHalfRange) {
  GainLayer layer;
  for (const AffineSpec& spec : kSpecs) {
    QuantizedChunk chunk =
        quantize_chunk_with_feedback(spec, layer.matrix.values, kRows, layer.factor, layer.pool);
    std::vector<float> gains(kRows, 1.5F);
    gains.back() = 2e5F;
    const QuantizedChunk before = chunk;
    EXPECT_FALSE(apply_row_gains(spec, kCols, gains, chunk));
    EXPECT_EQ(chunk.params, before.params);
    EXPECT_EQ(chunk.row_scales, before.row_scales);
  }
}

}  // namespace
}  // namespace arrow_quant
