#include "quantize/error_feedback.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "quantize/calibrated_input.h"
#include "quantize/reference_gptq.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

std::vector<AffineSpec> feedback_specs(int group) {
  std::vector<AffineSpec> specs;
  for (const AffineSpec& spec : all_specs({group})) {
    if (spec.method == Method::kSearch) specs.push_back(spec);
  }
  return specs;
}

struct Layer {
  Matrix matrix;
  std::vector<float> tokens;
  GramMatrix gram;
  FeedbackFactor factor;

  Layer(size_t rows, size_t cols, size_t count, const FeedbackOptions& options = {},
        uint64_t block = 0)
      : matrix(random_matrix(rows, cols)), tokens(correlated_tokens(count, cols)) {
    gram = gram_of(tokens, cols, block);
    ThreadPool pool(2);
    factor = make_feedback_factor(gram, count, options, pool);
  }
};

QuantizedChunk quantize(const AffineSpec& spec, const Matrix& matrix, const FeedbackFactor& factor,
                        int threads = 2, FeedbackEffort effort = FeedbackEffort::kScales) {
  ThreadPool pool(threads);
  return quantize_chunk_with_feedback(spec, matrix.values, matrix.rows, factor, pool, {}, effort);
}

/// The levels of column `col` of row `row`, from the packed parameters and every possible code.
double nearest_level(const AffineSpec& spec, const QuantizedChunk& chunk, size_t row, size_t col,
                     size_t cols, double w) {
  QuantizedChunk trial = chunk;
  const size_t bits = static_cast<size_t>(spec.bit_width);
  uint8_t& byte = trial.codes[row * packed_row_bytes(cols, spec.bit_width) + col * bits / 8];
  const unsigned shift = static_cast<unsigned>(col * bits % 8), mask = (1U << bits) - 1;
  double best = 0, least = HUGE_VAL;
  for (unsigned code = 0; code <= mask; ++code) {
    byte = static_cast<uint8_t>((byte & ~(mask << shift)) | code << shift);
    if (spec.param_encoding == ParamEncoding::kRow && code == 128) continue;
    const double v = decode_weight(spec, rows_of(trial, cols), row, col);
    if (std::abs(w - v) < least) least = std::abs(w - v), best = v;
  }
  return best;
}

TEST(ErrorFeedback, GivesTheCodesOfGptqInEveryEncoding) {
  const Layer layer(3, 200, 900, {.damping = 0.01});
  const ReferenceGptq reference(layer.gram, 0.01);
  for (const AffineSpec& spec : feedback_specs(64)) {
    SCOPED_TRACE(describe(spec));
    const QuantizedChunk chunk = quantize(spec, layer.matrix, layer.factor);
    size_t different = 0;
    for (size_t r = 0; r < 3; ++r) {
      const std::vector<double> expected = reference.quantize(
          layer.matrix.values.data() + r * 200,
          [&](size_t c, double w) { return nearest_level(spec, chunk, r, c, 200, w); });
      for (size_t c = 0; c < 200; ++c) {
        const double v = decode_weight(spec, rows_of(chunk, 200), r, c);
        if (std::abs(v - expected[c]) > 1e-6 * std::abs(v)) ++different;
      }
    }
    // One weight between two levels, decided otherwise by f32, changes those after it.
    EXPECT_LE(different, spec.bit_width == 8 ? 60U : 12U);
  }
}

TEST(ErrorFeedback, LowersTheOutputErrorBelowEveryOtherMethod) {
  const Layer layer(64, 256, 2048);
  const std::vector<float> others = correlated_tokens(2048, 256, 1.0, 99);
  const GramMatrix held_out = gram_of(others, 256);
  for (AffineSpec spec : feedback_specs(64)) {
    SCOPED_TRACE(describe(spec));
    const auto error = [&](const QuantizedRows& rows) {
      std::vector<float> restored(64 * 256);
      dequantize_rows(rows.spec, rows.packed(), restored.data());
      return output_nmse(held_out, layer.matrix, restored);
    };
    const double weighted =
        error(quantize_matrix(spec, layer.matrix, SIZE_MAX, layer.factor.importance.data()));
    const double searched = error(quantize_matrix(spec, layer.matrix));
    const double feedback = output_nmse(
        held_out, layer.matrix, restore(spec, quantize(spec, layer.matrix, layer.factor), 256));
    spec.method = Method::kRtn;
    const double nearest = error(quantize_matrix(spec, layer.matrix));
    if (spec.bit_width < 8) {
      EXPECT_LT(searched, nearest);
      EXPECT_LT(weighted, 0.9 * searched);
      EXPECT_LT(feedback, 0.7 * weighted);
    } else {
      EXPECT_LT(feedback, 0.8 * std::min({nearest, searched, weighted}));
    }
  }
}

TEST(ErrorFeedback, TriesScalesThatLowerTheErrorOfRows) {
  const Layer layer(64, 256, 2048);
  for (const AffineSpec& spec : feedback_specs(64)) {
    SCOPED_TRACE(describe(spec));
    const QuantizedChunk once =
        quantize(spec, layer.matrix, layer.factor, 2, FeedbackEffort::kOnce);
    const QuantizedChunk scales = quantize(spec, layer.matrix, layer.factor);
    if (spec.bit_width == 8) {
      EXPECT_EQ(scales.codes, once.codes);
      continue;
    }
    const auto error = [&](const QuantizedChunk& chunk) {
      return output_nmse(layer.gram, layer.matrix, restore(spec, chunk, 256));
    };
    EXPECT_LT(error(scales), error(once));
  }
}

TEST(ErrorFeedback, SumsTheErrorsOfWhatItStored) {
  const Layer layer(5, 200, 900);
  for (const AffineSpec& spec : feedback_specs(64)) {
    SCOPED_TRACE(describe(spec));
    const QuantizedChunk chunk = quantize(spec, layer.matrix, layer.factor);
    ErrorSums expected;
    for (size_t i = 0; i < layer.matrix.values.size(); ++i) {
      const double w = layer.matrix.values[i];
      const double v = decode_weight(spec, rows_of(chunk, 200), i / 200, i % 200);
      expected.add({w * w, v * v, w * v, (w - v) * (w - v), 1});
    }
    EXPECT_EQ(chunk.error.count, expected.count);
    EXPECT_NEAR(chunk.error.ww, expected.ww, 1e-6 * expected.ww);
    EXPECT_NEAR(chunk.error.vv, expected.vv, 1e-5 * expected.ww);
    EXPECT_NEAR(chunk.error.wv, expected.wv, 1e-5 * expected.ww);
    EXPECT_NEAR(chunk.error.err, expected.err, 1e-5 * expected.err);
  }
}

TEST(ErrorFeedback, GivesTheSameBytesForAnyNumberOfThreads) {
  const std::vector<float> tokens = correlated_tokens(1200, 600);
  const GramMatrix gram = gram_of(tokens, 600);
  const Matrix matrix = random_matrix(600, 600);
  for (const AffineSpec& spec : feedback_specs(128)) {
    std::vector<QuantizedChunk> chunks;
    for (int threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      const FeedbackFactor factor = make_feedback_factor(gram, 1200, {}, pool);
      chunks.push_back(quantize(spec, matrix, factor, threads));
    }
    for (const QuantizedChunk& chunk : chunks) {
      EXPECT_EQ(chunk.codes, chunks[0].codes) << describe(spec);
      EXPECT_EQ(chunk.params, chunks[0].params) << describe(spec);
      EXPECT_EQ(chunk.row_scales, chunks[0].row_scales) << describe(spec);
      EXPECT_EQ(chunk.error.err, chunks[0].error.err) << describe(spec);
    }
  }
}

TEST(ErrorFeedback, HandlesOneRowOneColumnAndShortGroups) {
  for (const AffineSpec& spec : feedback_specs(64)) {
    for (size_t cols : {1, 2, 3, 17, 33, 64, 65, 130, 257}) {
      for (size_t rows : {1, 19}) {
        SCOPED_TRACE(describe(spec) + ", " + std::to_string(rows) + " x " + std::to_string(cols));
        const Layer layer(rows, cols, 50);
        const QuantizedChunk chunk = quantize(spec, layer.matrix, layer.factor);
        EXPECT_LT(chunk.error.nmse(), spec.bit_width == 2 ? 0.9 : 0.1);
        const size_t row_bytes = packed_row_bytes(cols, spec.bit_width);
        const size_t used = cols * static_cast<size_t>(spec.bit_width) % 8;
        for (size_t r = 0; used != 0 && r < rows; ++r) {
          EXPECT_EQ(chunk.codes[(r + 1) * row_bytes - 1] >> used, 0) << "padding of row " << r;
        }
      }
    }
  }
}

TEST(ErrorFeedback, KeepsWeightsThatAreAlreadyOnTheirLevels) {
  Layer layer(9, 200, 900);
  for (const AffineSpec& spec : feedback_specs(64)) {
    SCOPED_TRACE(describe(spec));
    QuantizedChunk chunk = quantize(spec, layer.matrix, layer.factor);
    const std::vector<float> levels = restore(spec, chunk, 200);
    ErrorSums sums;
    encode_rows_with_feedback(
        spec, {chunk.tensor_scale, chunk.offset_unit}, {levels.data(), 9, 200}, layer.factor,
        {chunk.codes.data(), chunk.params.data(), chunk.row_scales.data()}, sums);
    EXPECT_EQ(restore(spec, chunk, 200), levels);
    EXPECT_EQ(sums.err, 0.0);
  }
}

TEST(ErrorFeedback, IsPlainRoundingWithoutCorrelations) {
  // Tokens that each excite one channel: a diagonal Gram matrix.
  std::vector<float> tokens(100 * 100, 0.0F);
  for (size_t c = 0; c < 100; ++c) tokens[c * 101] = 1.0F + static_cast<float>(c % 5);
  ThreadPool pool(1);
  const FeedbackFactor factor = make_feedback_factor(gram_of(tokens, 100), 100, {}, pool);
  const Matrix matrix = random_matrix(7, 100);
  for (const AffineSpec& spec : feedback_specs(64)) {
    const QuantizedChunk chunk = quantize(spec, matrix, factor, 1, FeedbackEffort::kOnce);
    const QuantizedRows plain =
        quantize_matrix(spec, matrix, SIZE_MAX, factor.feedback_importance.data());
    EXPECT_EQ(chunk.params, plain.params) << describe(spec);
    EXPECT_EQ(chunk.codes, plain.codes) << describe(spec);
  }
}

TEST(ErrorFeedback, FallsBackToTheWeightedSearchWithoutAFactor) {
  FeedbackFactor factor;
  factor.channels = 100;
  factor.usable = false;
  for (size_t c = 0; c < 100; ++c) factor.importance.push_back(1.0F + static_cast<float>(c % 5));
  const Matrix matrix = random_matrix(7, 100);
  for (const AffineSpec& spec : feedback_specs(64)) {
    const QuantizedChunk chunk = quantize(spec, matrix, factor);
    const QuantizedRows plain = quantize_matrix(spec, matrix, SIZE_MAX, factor.importance.data());
    EXPECT_EQ(chunk.codes, plain.codes) << describe(spec);
    EXPECT_EQ(chunk.error.err, plain.sums.err) << describe(spec);
  }
}

TEST(ErrorFeedback, FindsAScaleForRowsThatASampleMissed) {
  Layer layer(400, 40, 200);
  layer.matrix.values[13 * 40 + 7] = 1e9F;
  for (const AffineSpec& spec : feedback_specs(64)) {
    const QuantizedChunk chunk = quantize(spec, layer.matrix, layer.factor);
    EXPECT_NEAR(decode_weight(spec, rows_of(chunk, 40), 13, 7), 1e9, 0.5e9) << describe(spec);
    EXPECT_TRUE(std::isfinite(chunk.error.err));
  }
}

}  // namespace
}  // namespace arrow_quant
