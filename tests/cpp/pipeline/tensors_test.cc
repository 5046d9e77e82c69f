// Single arrays: the three ways back to numbers agree with each other and with the format.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "quantize/error_sums.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

using testing::count_of;
using testing::QuietProgress;
using testing::random_weights;

QuantizedTensorInfo info_of(std::vector<uint64_t> shape, int bits, ParamEncoding encoding,
                            int group_size = 64) {
  return {.name = "w",
          .shape = std::move(shape),
          .encoding = Encoding::kAffine,
          .spec = {.bit_width = bits, .group_size = group_size, .param_encoding = encoding}};
}

QuantizedTensor quantize(const QuantizedTensorInfo& info, const std::vector<float>& weights,
                         int threads = 2) {
  QuietProgress progress;
  return quantize_array(info, std::as_bytes(std::span(weights)), {}, threads, progress);
}

std::vector<QuantizedTensorInfo> every_spec(const std::vector<uint64_t>& shape) {
  return {
      info_of(shape, 2, ParamEncoding::kTwoLevel),      info_of(shape, 4, ParamEncoding::kTwoLevel),
      info_of(shape, 2, ParamEncoding::kFp16),          info_of(shape, 4, ParamEncoding::kFp16),
      info_of(shape, 8, ParamEncoding::kFp16),          info_of(shape, 8, ParamEncoding::kRow),
      info_of(shape, 2, ParamEncoding::kResidualBinary)};
}

std::string text_of(const QuantizedTensorInfo& info) {
  return std::to_string(info.spec.bit_width) + " bits " +
         std::string(to_string(info.spec.param_encoding)) + " cols " + std::to_string(info.cols());
}

const std::vector<std::vector<uint64_t>> kShapes = {
    {5, 33}, {5, 100}, {3, 145}, {4, 1000}, {1, 1}, {7, 64}, {6, 4, 3, 3}, {300, 700}, {2, 8191}};

TEST(QuantizeArray, ItsFiguresAreThoseOfTheRestoredWeights) {
  for (const auto& shape : kShapes) {
    const std::vector<float> weights = random_weights(shape, 3);
    for (const QuantizedTensorInfo& info : every_spec(shape)) {
      const QuantizedTensor tensor = quantize(info, weights);
      std::vector<float> restored(weights.size());
      dequantize(tensor, restored, 2);
      const ErrorSums sums = error_sums(weights, restored);
      EXPECT_NEAR(tensor.info.cosine, sums.cosine(), 1e-6) << text_of(info);
      EXPECT_NEAR(tensor.info.nmse, sums.nmse(), 1e-6) << text_of(info);
      EXPECT_GT(sums.cosine(), info.spec.bit_width == 2 ? 0.9 : 0.99) << text_of(info);
    }
  }
}

TEST(QuantizeArray, Int8AndScalesGiveTheRestoredWeights) {
  for (const auto& shape : kShapes) {
    const std::vector<float> weights = random_weights(shape, 4);
    for (const QuantizedTensorInfo& info : every_spec(shape)) {
      if (info.spec.param_encoding == ParamEncoding::kFp16) continue;
      const QuantizedTensor tensor = quantize(info, weights);
      std::vector<float> restored(weights.size());
      std::vector<int8_t> v(weights.size());
      std::vector<float> scales(info.rows());
      dequantize(tensor, restored, 1);
      expand_int8(tensor, v, scales);
      for (size_t i = 0; i < weights.size(); ++i) {
        ASSERT_EQ(restored[i], scales[i / info.cols()] * static_cast<float>(v[i]))
            << text_of(info) << " element " << i;
        ASSERT_NE(v[i], -128);
      }
    }
  }
}

TEST(QuantizeArray, StackedExpertsAreQuantizedLikeTheMatrixOfAllTheirRows) {
  std::vector<float> weights = random_weights({3, 20, 64}, 6);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] *= static_cast<float>(1 + i / 64 % 20);
  for (QuantizedTensorInfo info : every_spec({3, 20, 64})) {
    info.row_dimensions = 2;
    const QuantizedTensor stack = quantize(info, weights);
    info.shape = {60, 64};
    info.row_dimensions = 1;
    const QuantizedTensor matrix = quantize(info, weights);
    ASSERT_EQ(stack.chunks.size(), 1U);
    EXPECT_EQ(stack.info.rows(), 60U);
    EXPECT_EQ(stack.info.cols(), 64U);
    EXPECT_EQ(stack.chunks[0].codes, matrix.chunks[0].codes) << text_of(info);
    EXPECT_EQ(stack.chunks[0].params, matrix.chunks[0].params) << text_of(info);
    EXPECT_EQ(stack.chunks[0].row_scales, matrix.chunks[0].row_scales) << text_of(info);
    EXPECT_EQ(stack.info.nmse, matrix.info.nmse) << text_of(info);
  }
}

TEST(QuantizeArray, UnpackedCodesAreThoseInTheBytes) {
  for (const auto& shape : kShapes) {
    const std::vector<float> weights = random_weights(shape, 5);
    for (const QuantizedTensorInfo& info : every_spec(shape)) {
      const QuantizedTensor tensor = quantize(info, weights);
      std::vector<uint8_t> codes(weights.size());
      unpack(tensor, codes);
      const auto bits = static_cast<uint64_t>(info.spec.bit_width);
      const uint64_t row_bytes = packed_row_bytes(info.cols(), info.spec.bit_width);
      for (size_t i = 0; i < codes.size(); ++i) {
        const uint64_t bit = i % info.cols() * bits;
        const uint8_t byte = tensor.chunks[0].codes[i / info.cols() * row_bytes + bit / 8];
        ASSERT_EQ(codes[i], byte >> bit % 8 & ((1 << bits) - 1)) << text_of(info);
      }
    }
  }
}

TEST(QuantizeArray, AnythingBeyondTheLastColumnIsZero) {
  for (const QuantizedTensorInfo& info : every_spec({5, 33})) {
    if (info.spec.bit_width == 8) continue;
    const QuantizedTensor tensor = quantize(info, random_weights({5, 33}, 6));
    const uint64_t row_bytes = packed_row_bytes(33, info.spec.bit_width);
    for (uint64_t row = 1; row <= 5; ++row) {
      EXPECT_EQ(tensor.chunks[0].codes[row * row_bytes - 1] >> info.spec.bit_width, 0)
          << text_of(info);
    }
  }
}

TEST(QuantizeArray, BytesDoNotDependOnTheNumberOfThreads) {
  const std::vector<float> weights = random_weights({900, 500}, 7);
  for (const QuantizedTensorInfo& info : every_spec({900, 500})) {
    const QuantizedTensor one = quantize(info, weights, 1);
    for (const int threads : {2, 5}) {
      const QuantizedTensor many = quantize(info, weights, threads);
      EXPECT_EQ(many.chunks[0].codes, one.chunks[0].codes) << text_of(info);
      EXPECT_EQ(many.chunks[0].params, one.chunks[0].params) << text_of(info);
      EXPECT_EQ(many.chunks[0].row_scales, one.chunks[0].row_scales) << text_of(info);
      EXPECT_EQ(many.info.cosine, one.info.cosine) << text_of(info);
    }
  }
}

TEST(QuantizeArray, ZerosTinyAndHugeWeightsAreRestored) {
  for (const float scale : {0.0F, 1e-30F, 1e-8F, 1.0F, 1e8F, 1e30F}) {
    std::vector<float> weights = random_weights({4, 200}, 8);
    for (float& w : weights) w *= scale;
    for (const QuantizedTensorInfo& info : every_spec({4, 200})) {
      const QuantizedTensor tensor = quantize(info, weights);
      std::vector<float> restored(weights.size());
      dequantize(tensor, restored, 1);
      for (const float v : restored) ASSERT_TRUE(std::isfinite(v)) << scale << " " << text_of(info);
      EXPECT_GT(error_sums(weights, restored).cosine(), 0.9) << scale << " " << text_of(info);
    }
  }
}

TEST(QuantizeArray, AnEmptyArrayIsRestoredAsOne) {
  for (const std::vector<uint64_t>& shape : {std::vector<uint64_t>{0, 64}, {3, 0}}) {
    for (const QuantizedTensorInfo& info : every_spec(shape)) {
      std::vector<float> nothing;
      const QuantizedTensor tensor = quantize(info, nothing);
      EXPECT_NO_THROW(dequantize(tensor, nothing, 1));
      EXPECT_EQ(tensor.info.cosine, 1.0);
    }
  }
}

TEST(QuantizeArray, AFormatThatDoesNotExistIsRefusedOnEveryWay) {
  using testing::expect_error;
  const std::vector<float> weights(2 * 112, 1.0F);
  std::vector<float> floats(weights.size()), scales(2);
  std::vector<uint8_t> codes(weights.size());
  std::vector<int8_t> v(weights.size());
  for (const auto& [bits, group] : {std::pair(2, 56), {4, 0}, {8, 64}, {3, 64}, {4, -32}}) {
    const QuantizedTensorInfo info = info_of({2, 112}, bits, ParamEncoding::kTwoLevel, group);
    const auto refuse = [&](const auto& work) {
      expect_error(ErrorCode::kConfiguration, {"tensor 'w'"}, work);
    };
    refuse([&] { quantize(info, weights); });
    const QuantizedTensor tensor{.info = info, .chunks = {}};
    refuse([&] { dequantize(tensor, floats, 1); });
    refuse([&] { unpack(tensor, codes); });
    refuse([&] { expand_int8(tensor, v, scales); });
  }
}

TEST(QuantizeArray, WrongInputIsRefused) {
  const auto code = [](const auto& work) -> std::optional<ErrorCode> {
    try {
      work();
    } catch (const Error& e) {
      return e.code();
    }
    return std::nullopt;
  };
  const QuantizedTensorInfo info = info_of({2, 40}, 4, ParamEncoding::kFp16);
  std::vector<float> weights(80, 1.0F);
  std::vector<float> out(81);
  std::vector<int8_t> v(80);
  QuietProgress progress;
  EXPECT_EQ(code([&] { quantize(info, std::vector<float>(79)); }), ErrorCode::kShapeMismatch);
  const QuantizedTensor tensor = quantize(info, weights);
  EXPECT_EQ(code([&] { dequantize(tensor, out, 1); }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code([&] { expand_int8(tensor, v, std::span(out).first(2)); }),
            ErrorCode::kConfiguration);
  const std::vector<float> importance(39, 1.0F);
  EXPECT_EQ(code([&] {
              quantize_array(info, std::as_bytes(std::span(weights)), importance, 1, progress);
            }),
            ErrorCode::kShapeMismatch);
  QuantizedTensorInfo integers = info;
  integers.source_dtype = DType::kI32;
  EXPECT_EQ(code([&] { quantize(integers, weights); }), ErrorCode::kConfiguration);
  weights[79] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(code([&] { quantize(info, weights); }), ErrorCode::kQuantization);
}

}  // namespace
}  // namespace arrow_quant
