#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>

#include "arrow_quant/dtype.h"
#include "arrow_quant/error.h"
#include "arrow_quant/quantized_tensor.h"
#include "core/checked.h"
#include "core/hash.h"

namespace arrow_quant {
namespace {

TEST(DType, NamesAreCaseSensitiveAndUnknownOnesAreRefused) {
  EXPECT_EQ(parse_dtype("BF16"), DType::kBF16);
  EXPECT_EQ(parse_dtype("bf16"), std::nullopt);
  EXPECT_EQ(parse_dtype("F7"), std::nullopt);
  EXPECT_EQ(parse_dtype(""), std::nullopt);
}

TEST(DType, EveryNameParsesBackToItsType) {
  for (int i = 0; i <= static_cast<int>(DType::kF6E3M2); ++i) {
    const DTypeInfo& info = dtype_info(static_cast<DType>(i));
    EXPECT_EQ(parse_dtype(info.name), info.dtype);
    EXPECT_GT(info.bits, 0U);
  }
}

TEST(Error, TextSaysWhereWhatAndWhatNext) {
  const Error error(ErrorCode::kMetadata, "expected 8 bytes, found 3",
                    {.path = "m.safetensors", .tensor = "a.weight", .hint = "Download it again."});
  EXPECT_STREQ(error.what(),
               "m.safetensors: tensor 'a.weight': expected 8 bytes, found 3\nDownload it again.");
  EXPECT_EQ(exit_code(error.code()), 4);
}

TEST(Error, EmptyContextLeavesOnlyTheMessage) {
  EXPECT_STREQ(Error(ErrorCode::kConfiguration, "Invalid bit_width: 3. Must be 2, 4, or 8.").what(),
               "Invalid bit_width: 3. Must be 2, 4, or 8.");
}

TEST(CheckedArithmetic, ReportsOverflowInsteadOfWrapping) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(checked_add(kMax - 1, 1), kMax);
  EXPECT_EQ(checked_add(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_mul(1ULL << 32, 1ULL << 32), std::nullopt);
  EXPECT_EQ(checked_mul(0, kMax), 0U);
}

TEST(Hash, MatchesThePublishedValueForEmptyInputAndStreamsLikeOneShot) {
  // XXH3 128 bits, seed 0, empty input: from the xxHash specification.
  EXPECT_EQ(hash_hex({}), "99aa06d3014798d86001c324468d497f");
  const std::string text(100000, 'x');
  const auto bytes = std::as_bytes(std::span(text));
  Hasher hasher;
  hasher.update(bytes.first(1));
  hasher.update(bytes.subspan(1, 70000));
  hasher.update(bytes.subspan(70001));
  EXPECT_EQ(hasher.hex(), hash_hex(bytes));
}

TEST(ErrorSums, MetricsAreDefinedForZeroTensors) {
  EXPECT_EQ(ErrorSums{}.cosine(), 1.0);
  EXPECT_EQ(ErrorSums{}.nmse(), 0.0);
  EXPECT_EQ((ErrorSums{.ww = 0, .vv = 1, .wv = 0, .err = 1, .count = 1}).cosine(), 0.0);
}

TEST(QuantizedTensor, RowSizesFollowTheFormat) {
  EXPECT_EQ(packed_row_bytes(5, 2), 2U);
  EXPECT_EQ(packed_row_bytes(5, 4), 3U);
  EXPECT_EQ(packed_row_bytes(5, 8), 5U);
  const AffineSpec two_level{.bit_width = 4, .group_size = 128};
  EXPECT_EQ(param_row_bytes(4096, two_level), 128U);
  EXPECT_EQ(param_row_bytes(33, two_level), 2U);
  const AffineSpec fp16{.bit_width = 4, .group_size = 64, .param_encoding = ParamEncoding::kFp16};
  EXPECT_EQ(param_row_bytes(65, fp16), 8U);
}

}  // namespace
}  // namespace arrow_quant
