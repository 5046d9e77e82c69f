#include "quantize/affine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/half.h"
#include "kernels/isa_fixture.h"
#include "quantize/quantized_rows.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Quantize);

constexpr AffineSpec kFp16Int4{4, 64, ParamEncoding::kFp16, Method::kRtn};
constexpr AffineSpec kRowInt8{8, 64, ParamEncoding::kRow, Method::kRtn};

ErrorSums decoded_sums(const QuantizedRows& result, const Matrix& matrix) {
  ErrorSums sums;
  for (size_t r = 0; r < matrix.rows; ++r) {
    for (size_t c = 0; c < matrix.cols; ++c) {
      const double w = matrix.values[r * matrix.cols + c], v = result.weight(r, c);
      sums.add({w * w, v * v, w * v, (w - v) * (w - v), 1});
    }
  }
  return sums;
}

void expect_close(double actual, double expected, double scale) {
  EXPECT_NEAR(actual, expected, 1e-6 * scale);
}

/// Everything that must hold for any matrix: it fits, the sums are those of the decoded weights,
/// and padding bits are zero.
void check_round_trip(const AffineSpec& spec, const Matrix& matrix) {
  SCOPED_TRACE(describe(spec) + ", " + std::to_string(matrix.rows) + " x " +
               std::to_string(matrix.cols));
  const QuantizedRows result = quantize_matrix(spec, matrix);
  ASSERT_TRUE(result.fits);
  const ErrorSums expected = decoded_sums(result, matrix);
  EXPECT_EQ(result.sums.count, expected.count);
  expect_close(result.sums.ww, expected.ww, expected.ww);
  expect_close(result.sums.vv, expected.vv, expected.ww);
  expect_close(result.sums.wv, expected.wv, expected.ww);
  expect_close(result.sums.err, expected.err, expected.err + 1e-6 * expected.ww);
  const size_t row_bytes = packed_row_bytes(matrix.cols, spec.bit_width);
  const size_t used_bits = matrix.cols * static_cast<size_t>(spec.bit_width) % 8;
  for (size_t r = 0; used_bits != 0 && r < matrix.rows; ++r) {
    EXPECT_EQ(result.codes[(r + 1) * row_bytes - 1] >> used_bits, 0) << "padding of row " << r;
  }
}

TEST_P(Quantize, RoundTripsOddShapesInEveryEncoding) {
  for (const AffineSpec& spec : all_specs({32, 64, 128})) {
    for (size_t cols : {1, 2, 3, 7, 8, 9, 27, 31, 33, 63, 64, 65, 130, 257, 1029}) {
      check_round_trip(spec, random_matrix(3, cols));
    }
    check_round_trip(spec, random_matrix(70, 1));
    check_round_trip(spec, random_matrix(41, 36));
  }
}

TEST_P(Quantize, RoundTripsUnusualGroupSizes) {
  for (const AffineSpec& spec : all_specs({8, 24, 96, 4096})) {
    for (size_t cols : {20, 192, 1500}) check_round_trip(spec, random_matrix(5, cols, true));
  }
}

TEST_P(Quantize, RoundTripsHugeTinyAndSubnormalWeights) {
  for (float scale : {1e37F, 1e20F, 1e-20F, 1e-37F}) {
    for (AffineSpec spec : all_specs({32})) {
      Matrix matrix = random_matrix(4, 200);
      for (float& w : matrix.values) w *= scale;
      check_round_trip(spec, matrix);
    }
  }
  for (const AffineSpec& spec : all_specs({32})) {
    Matrix matrix = random_matrix(4, 200);
    for (float& w : matrix.values) w *= 1e-41F;  // a few thousand units in the last place
    const QuantizedRows result = quantize_matrix(spec, matrix);
    EXPECT_TRUE(result.fits);
    EXPECT_LT(result.sums.nmse(), 0.3) << describe(spec);
  }
}

TEST_P(Quantize, KeepsZerosExact) {
  for (const AffineSpec& spec : all_specs({32, 64})) {
    SCOPED_TRACE(describe(spec));
    Matrix matrix{3, 150, std::vector<float>(450, 0.0F)};
    matrix.values[5] = -0.0F;
    for (size_t i = 300; i < 364; ++i) matrix.values[i] = static_cast<float>(i) - 330.5F;
    const QuantizedRows result = quantize_matrix(spec, matrix);
    ASSERT_TRUE(result.fits);
    for (size_t r = 0; r < 3; ++r) {
      for (size_t c = 0; c < 150; ++c) {
        if (r == 2 && c < 64) continue;
        EXPECT_EQ(result.weight(r, c), 0.0) << r << ", " << c;
      }
    }
    if (!result.scales.empty()) {
      EXPECT_EQ(result.scales[0], 0x3C00) << "a row of zeros has scale 1";
    }
  }
}

TEST_P(Quantize, StoresConstantGroupsWithScaleOneAndTheirValueAsOffset) {
  const Matrix matrix{1, 100, std::vector<float>(100, 0.375F)};
  for (Method method : {Method::kRtn, Method::kSearch}) {
    AffineSpec spec = kFp16Int4;
    spec.method = method;
    const QuantizedRows result = quantize_matrix(spec, matrix);
    ASSERT_TRUE(result.fits);
    EXPECT_EQ(decode_half(result.params.data()), 1.0);
    EXPECT_EQ(decode_half(result.params.data() + 4), 1.0) << "the short group too";
    EXPECT_EQ(result.codes, ByteBuffer(50, 0));
    for (size_t c = 0; c < 100; ++c) EXPECT_EQ(result.weight(0, c), 0.375);
    EXPECT_EQ(result.sums.err, 0.0);
  }
}

TEST_P(Quantize, ReproducesWeightsThatAreAlreadyOnAGrid) {
  for (int bits : {2, 4, 8}) {
    Matrix matrix = random_matrix(4, 256);
    const int top = (1 << bits) - 1;
    for (size_t i = 0; i < matrix.values.size(); ++i) {
      const size_t code = i % 64 < 2 ? (i % 2) * static_cast<size_t>(top) : i * 2654435761U >> 7;
      matrix.values[i] = 0.25F * static_cast<float>(code % static_cast<size_t>(top + 1)) - 3.0F;
    }
    for (Method method : {Method::kRtn, Method::kSearch}) {
      const QuantizedRows result =
          quantize_matrix({bits, 64, ParamEncoding::kFp16, method}, matrix);
      EXPECT_LT(result.sums.nmse(), 1e-9) << bits;
    }
  }
}

TEST_P(Quantize, RoundsToNearestWithinHalfAStepOfMinMax) {
  const Matrix matrix = random_matrix(8, 320, true);
  const QuantizedRows result = quantize_matrix(kFp16Int4, matrix);
  for (size_t r = 0; r < matrix.rows; ++r) {
    for (size_t c = 0; c < matrix.cols; ++c) {
      const uint8_t* pair = result.params.data() + (r * 5 + c / 64) * 4;
      const double step = decode_half(pair) * static_cast<double>(result.settings.tensor_scale);
      EXPECT_NEAR(result.weight(r, c), matrix.values[r * 320 + c], 0.52 * step);
    }
  }
}

TEST_P(Quantize, CoversEverySubGroupWithinHalfAStepInTwoLevelRounding) {
  for (int bits : {2, 4}) {
    const Matrix matrix = random_matrix(8, 512, true);
    const QuantizedRows result =
        quantize_matrix({bits, 64, ParamEncoding::kTwoLevel, Method::kRtn}, matrix);
    for (size_t r = 0; r < matrix.rows; ++r) {
      const double scale = f16_to_f32(result.scales[r]) * result.settings.tensor_scale;
      for (size_t c = 0; c < matrix.cols; ++c) {
        const int q = result.params[r * 32 + c / 16] % 16 + 1;
        EXPECT_NEAR(result.weight(r, c), matrix.values[r * 512 + c], 0.52 * q * scale);
      }
    }
  }
}

TEST_P(Quantize, PacksTheFirstElementIntoTheLowestBits) {
  // One row of 0, 1, 2, ... with scale 1 and offset 0 after division by tensor_scale.
  Matrix matrix{1, 6, {0, 15, 1, 2, 3, 14}};
  const QuantizedRows int4 = quantize_matrix(kFp16Int4, matrix);
  EXPECT_EQ(int4.codes, (ByteBuffer{0xF0, 0x21, 0xE3}));
  matrix.values = {0, 3, 1, 2, 3, 0};
  const QuantizedRows int2 = quantize_matrix({2, 64, ParamEncoding::kFp16, Method::kRtn}, matrix);
  EXPECT_EQ(int2.codes, (ByteBuffer{0b10011100, 0b0011}));
  matrix.values = {127, -127, 1, -1, 0, 64};
  const QuantizedRows int8 = quantize_matrix(kRowInt8, matrix);
  EXPECT_EQ(int8.codes, (ByteBuffer{127, 129, 1, 255, 0, 64}));
}

TEST_P(Quantize, ReportsParametersThatLeaveTheHalfRangeAndSucceedsAfterRescaling) {
  Matrix matrix = random_matrix(2, 128);
  matrix.values[200] = 3e7F;
  for (AffineSpec spec : all_specs({64})) {
    SCOPED_TRACE(describe(spec));
    QuantizedRows result(spec, 2, 128);
    RowBlock sample = matrix.block();
    sample.rows = 1;  // the sample misses the large weight
    result.settings = choose_chunk_settings(spec, sample);
    EXPECT_FALSE(quantize_rows(spec, result.settings, matrix.block(), result.out(0), result.sums));
    result.settings.tensor_scale = tensor_scale_for(spec, 3e7F);
    result.sums = {};
    EXPECT_TRUE(quantize_rows(spec, result.settings, matrix.block(), result.out(0), result.sums));
    EXPECT_NEAR(result.weight(1, 72), 3e7, 3e7 * (spec.bit_width == 2 ? 0.25 : 0.1));
  }
}

TEST_P(Quantize, GivesTheSameBytesForAnyBlockSplit) {
  const Matrix matrix = random_matrix(23, 328, true);
  std::vector<float> importance(328);
  for (size_t c = 0; c < 328; ++c) importance[c] = static_cast<float>(1 + c % 7);
  for (const AffineSpec& spec : all_specs({32, 128})) {
    for (const float* h :
         {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
      SCOPED_TRACE(describe(spec));
      const QuantizedRows whole = quantize_matrix(spec, matrix, SIZE_MAX, h);
      for (size_t step : {1, 2, 5, 16}) {
        const QuantizedRows split = quantize_matrix(spec, matrix, step, h);
        EXPECT_EQ(whole.codes, split.codes);
        EXPECT_EQ(whole.params, split.params);
        EXPECT_EQ(whole.scales, split.scales);
        EXPECT_NEAR(whole.sums.err, split.sums.err, 1e-12 * whole.sums.err);
      }
    }
  }
}

TEST_P(Quantize, SurvivesHostileValues) {
  const float hostile[] = {std::nanf(""), HUGE_VALF, -HUGE_VALF, 3.4e38F, -3.4e38F, 1e-45F, 0.0F};
  for (const AffineSpec& spec : all_specs({32})) {
    for (size_t seed = 0; seed < 12; ++seed) {
      Matrix matrix = random_matrix(3, 77, false, static_cast<unsigned>(seed));
      std::vector<float> importance(77, 1.0F);
      for (size_t i = 0; i <= seed * 3; ++i) {
        matrix.values[(i * 37 + seed) % matrix.values.size()] = hostile[(i + seed) % 7];
        importance[(i * 11 + seed) % 77] = hostile[(i + 2 * seed) % 7];
      }
      (void)quantize_matrix(spec, matrix);
      (void)quantize_matrix(spec, matrix, 1, importance.data());
    }
  }
}

TEST_P(Quantize, FavoursImportantColumns) {
  const Matrix matrix = random_matrix(32, 256, true);
  std::vector<float> importance(256, 1.0F);
  for (size_t c = 0; c < 256; c += 16) importance[c] = 400.0F;
  const auto weighted_error = [&](const QuantizedRows& result) {
    double error = 0;
    for (size_t r = 0; r < matrix.rows; ++r) {
      for (size_t c = 0; c < matrix.cols; ++c) {
        const double d = result.weight(r, c) - matrix.values[r * 256 + c];
        error += importance[c] * d * d;
      }
    }
    return error;
  };
  for (AffineSpec spec : all_specs({64})) {
    if (spec.method == Method::kRtn || spec.bit_width == 8) continue;
    const double plain = weighted_error(quantize_matrix(spec, matrix));
    const double aware = weighted_error(quantize_matrix(spec, matrix, 32, importance.data()));
    EXPECT_LT(aware, 0.5 * plain) << describe(spec);
  }
}

TEST_P(Quantize, ByMagnitudeMovesLargeWeightsLess) {
  const Matrix matrix = random_matrix(32, 256, true);
  const auto error_of_large = [&](const QuantizedRows& result) {
    double error = 0;
    for (size_t r = 0; r < matrix.rows; ++r) {
      for (size_t c = 0; c < matrix.cols; ++c) {
        const double w = matrix.values[r * matrix.cols + c], d = result.weight(r, c) - w;
        if (std::abs(w) > 2) error += d * d;
      }
    }
    return error;
  };
  for (ParamEncoding params : {ParamEncoding::kTwoLevel, ParamEncoding::kFp16}) {
    const AffineSpec spec{2, 64, params, Method::kSearch};
    const QuantizedRows plain = quantize_matrix(spec, matrix);
    QuantizedRows aware(spec, matrix.rows, matrix.cols);
    RowBlock block = matrix.block();
    block.by_magnitude = true;
    aware.settings = choose_chunk_settings(spec, block);
    ASSERT_TRUE(quantize_rows(spec, aware.settings, block, aware.out(0), aware.sums));
    EXPECT_LT(error_of_large(aware), 0.6 * error_of_large(plain)) << describe(spec);
    EXPECT_GT(aware.sums.err, plain.sums.err) << "which least squares of all weights cannot beat";
  }
}

TEST_P(Quantize, TreatsImportanceAsRelative) {
  const Matrix matrix = random_matrix(4, 160);
  std::vector<float> importance(160);
  for (size_t c = 0; c < 160; ++c) importance[c] = static_cast<float>(1 + c % 5);
  const AffineSpec spec{4, 64, ParamEncoding::kTwoLevel, Method::kSearch};
  const QuantizedRows once = quantize_matrix(spec, matrix, 4, importance.data());
  for (float& h : importance) h *= 0x1p100F;
  const QuantizedRows scaled = quantize_matrix(spec, matrix, 4, importance.data());
  EXPECT_EQ(once.codes, scaled.codes);
  importance.assign(160, 0.0F);
  const QuantizedRows zero = quantize_matrix(spec, matrix, 4, importance.data());
  EXPECT_LT(zero.sums.nmse(), 0.01) << "no importance at all means equal importance";
}

/// Instruction sets with fused multiply-add agree to the last bit; the others find parameters of
/// the same quality.
TEST(QuantizeAcrossIsas, AgreesOnBytesOrAtLeastOnQuality) {
  const Matrix matrix = random_matrix(40, 500, true);
  std::vector<float> importance(500);
  for (size_t c = 0; c < 500; ++c) importance[c] = static_cast<float>(1 + c % 9);
  const auto fused = [](const std::string& isa) { return isa != "scalar" && isa != "sse4"; };
  for (const AffineSpec& spec : all_specs({64, 128})) {
    SCOPED_TRACE(describe(spec));
    force_isa(supported_isas().front());
    const QuantizedRows best = quantize_matrix(spec, matrix, 16, importance.data());
    for (const std::string& isa : supported_isas()) {
      force_isa(isa);
      const QuantizedRows other = quantize_matrix(spec, matrix, 16, importance.data());
      EXPECT_NEAR(other.sums.nmse(), best.sums.nmse(), 1e-3 * best.sums.nmse()) << isa;
      if (!fused(isa) || !fused(supported_isas().front())) continue;
      EXPECT_EQ(other.codes, best.codes) << isa;
      EXPECT_EQ(other.params, best.params) << isa;
      EXPECT_EQ(other.scales, best.scales) << isa;
    }
    force_isa("");
  }
}

TEST(TensorScale, IsAPowerOfTwoWithAFiniteInverse) {
  for (float top : {1e-45F, 1e-38F, 1e-3F, 1.0F, 4096.0F, 65504.0F, 1e20F, 3.4e38F}) {
    const float scale = tensor_scale_for(kFp16Int4, top);
    int exponent = 0;
    EXPECT_EQ(std::frexp(scale, &exponent), 0.5F);
    EXPECT_TRUE(std::isnormal(scale) && std::isnormal(1.0F / scale)) << top;
    EXPECT_LT(top / scale, 8193.0F) << top;
  }
  EXPECT_EQ(tensor_scale_for(kFp16Int4, 0.0F), 1.0F);
  EXPECT_EQ(tensor_scale_for(kFp16Int4, std::nanf("")), 1.0F);
}

/// The largest NMSE that a searched encoding may have, parameters counted in its bits per weight.
struct ErrorLimit {
  int bits, group;
  ParamEncoding params;
  bool laplace;
  double limit;
};

class SearchError : public testing::TestWithParam<ErrorLimit> {};

TEST_P(SearchError, StaysBelowItsLimit) {
  const ErrorLimit& limit = GetParam();
  const Matrix matrix = random_matrix(64, 4096, limit.laplace);
  const QuantizedRows result =
      quantize_matrix({limit.bits, limit.group, limit.params, Method::kSearch}, matrix, 16);
  EXPECT_LT(result.sums.nmse(), limit.limit);
  EXPECT_NEAR(result.sums.cosine(), std::sqrt(1.0 - result.sums.nmse()), 2e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Limits, SearchError,
    testing::Values(ErrorLimit{4, 128, ParamEncoding::kTwoLevel, false, 0.0058},
                    ErrorLimit{4, 64, ParamEncoding::kTwoLevel, false, 0.0042},
                    ErrorLimit{2, 128, ParamEncoding::kTwoLevel, false, 0.092},
                    ErrorLimit{2, 64, ParamEncoding::kTwoLevel, false, 0.071},
                    ErrorLimit{4, 64, ParamEncoding::kFp16, false, 0.0068},
                    ErrorLimit{2, 64, ParamEncoding::kFp16, false, 0.102},
                    ErrorLimit{8, 64, ParamEncoding::kFp16, false, 3e-5},
                    ErrorLimit{8, 64, ParamEncoding::kRow, false, 7.6e-5},
                    ErrorLimit{4, 128, ParamEncoding::kTwoLevel, true, 0.0089},
                    ErrorLimit{2, 128, ParamEncoding::kTwoLevel, true, 0.126}));

}  // namespace
}  // namespace arrow_quant
