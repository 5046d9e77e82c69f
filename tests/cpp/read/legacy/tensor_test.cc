// What a row of an old layout means, and how its integers become weights, without any file.
#include "read/legacy/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "read/legacy/decode.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using ::testing::ElementsAre;

LegacyRecord record_of(std::vector<uint64_t> shape, uint64_t data_bytes, const char* dtype) {
  LegacyRecord record{.name = "w", .shape = std::move(shape), .elements = 1, .dtype = dtype};
  for (const uint64_t dim : record.shape) record.elements *= dim;
  record.data_bytes = data_bytes;
  return record;
}

LegacyRecord integers_of(std::vector<uint64_t> shape, const char* quant_type, uint64_t scales) {
  LegacyRecord record = record_of(std::move(shape), 0, "float32");
  record.data_bytes = record.elements;
  record.quant_type = quant_type;
  record.scales = scales;
  return record;
}

std::vector<uint64_t> groups_of(LegacyLayout layout, const LegacyRecord& record) {
  const LegacyTensor tensor = interpret_legacy(layout, record, "x.parquet");
  std::vector<uint64_t> groups;
  for (uint64_t i = 0; i < record.elements; ++i) groups.push_back(tensor.groups.of(i));
  return groups;
}

TEST(LegacyTensor, TheBytesDecideTheWidthOfFloatsAndNothingElse) {
  const auto dtype = [](const char* label, uint64_t bytes) {
    return interpret_legacy(LegacyLayout::kFloatTable, record_of({3}, bytes, label), "x").dtype;
  };
  EXPECT_EQ(dtype("torch.bfloat16", 6), DType::kBF16);
  EXPECT_EQ(dtype("torch.bfloat16", 12), DType::kF32);
  EXPECT_EQ(dtype("float16", 12), DType::kF32);
  EXPECT_EQ(dtype("torch.float32", 24), DType::kF64);
  EXPECT_EQ(dtype("torch.int8", 3), DType::kI8);
  testing::expect_error(ErrorCode::kShapeMismatch, {"expected 3, found 12"},
                        [&] { dtype("torch.int8", 12); });
  testing::expect_error(ErrorCode::kShapeMismatch, {"expected 12, found 6"},
                        [&] { dtype("torch.float32", 6); });
}

TEST(LegacyTensor, GroupsOfATableRunOverTheFlattenedTensor) {
  LegacyRecord record = integers_of({2, 4}, "int8", 3);
  record.group_size = 3;
  record.quant_axis = 1;  // group_size comes first
  EXPECT_THAT(groups_of(LegacyLayout::kQuantizedTable, record),
              ElementsAre(0, 0, 0, 1, 1, 1, 2, 2));
}

TEST(LegacyTensor, ChannelsOfATableRunAlongAnyAxis) {
  LegacyRecord record = integers_of({2, 2, 2}, "int8", 2);
  record.quant_axis = 0;
  EXPECT_THAT(groups_of(LegacyLayout::kQuantizedTable, record),
              ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  record.quant_axis = 1;
  EXPECT_THAT(groups_of(LegacyLayout::kQuantizedTable, record),
              ElementsAre(0, 0, 1, 1, 0, 0, 1, 1));
  record.quant_axis = 2;
  EXPECT_THAT(groups_of(LegacyLayout::kQuantizedTable, record),
              ElementsAre(0, 1, 0, 1, 0, 1, 0, 1));
}

TEST(LegacyTensor, TimeGroupsAreStretchesAndTheLastMayBeShort) {
  LegacyRecord record = integers_of({7}, "int8", 3);
  record.time_groups = 3;
  EXPECT_THAT(groups_of(LegacyLayout::kDiffusionFiles, record), ElementsAre(0, 0, 0, 1, 1, 1, 2));
  record.scales = 5;  // blocks of 2: the fifth group is never used
  EXPECT_THAT(groups_of(LegacyLayout::kDiffusionFiles, record), ElementsAre(0, 0, 1, 1, 2, 2, 3));
  record.scales = 100;  // more groups than weights
  EXPECT_THAT(groups_of(LegacyLayout::kDiffusionFiles, record), ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST(LegacyTensor, SpatialGroupsAreRowsAndTheLastMayBeShort) {
  LegacyRecord record = integers_of({3, 2}, "int4", 2);
  record.group_size = 2;
  EXPECT_THAT(groups_of(LegacyLayout::kTensorFiles, record), ElementsAre(0, 0, 0, 0, 1, 1));
  record.group_size = std::numeric_limits<int64_t>::max();
  record.scales = 1;
  EXPECT_THAT(groups_of(LegacyLayout::kTensorFiles, record), ElementsAre(0, 0, 0, 0, 0, 0));
}

TEST(LegacyTensor, AbsentWeightsAreNamed) {
  LegacyRecord record = integers_of({3, 2}, "int4", 1);
  record.data_bytes = 0;
  for (const LegacyLayout layout : {LegacyLayout::kTensorFiles, LegacyLayout::kDiffusionFiles}) {
    testing::expect_error(ErrorCode::kMetadata, {"x.parquet", "'w'", "weights are absent"},
                          [&] { interpret_legacy(layout, record, "x.parquet"); });
  }
}

TEST(LegacyDecode, TheTestVectorOfThePackingInBothOrders) {
  const LegacyTensor tensor{.codes = LegacyCodes::kPacked2, .bit_width = 2};
  const std::vector<uint8_t> data = {0x1E, 0xE1};
  std::vector<int16_t> codes(8);
  decode_legacy_codes(tensor, data, Int2Order::kLsb, 0, codes);
  EXPECT_THAT(codes, ElementsAre(0, 1, -1, -2, -1, -2, 0, 1));
  decode_legacy_codes(tensor, data, Int2Order::kMsb, 0, codes);
  EXPECT_THAT(codes, ElementsAre(-2, -1, 1, 0, 1, 0, -2, -1));
  std::vector<int16_t> middle(3);
  decode_legacy_codes(tensor, data, Int2Order::kLsb, 3, middle);
  EXPECT_THAT(middle, ElementsAre(-2, -1, -2));
}

TEST(LegacyDecode, AnyPartOfATensorIsWhatTheWholeHasThere) {
  LegacyRecord record = integers_of({5, 7, 300}, "int8", 3);
  record.group_size = 2;
  record.zero_points = 3;
  record.equalization = 5;
  const LegacyTensor tensor = interpret_legacy(LegacyLayout::kDiffusionFiles, record, "x");
  std::vector<uint8_t> data(record.elements);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 7);
  const LegacyValue value{.data = data,
                          .scales = {0.5F, 0.25F, 2.0F},
                          .zero_points = {1.0F, 128.0F, 3.5F},
                          .equalization = {1.0F, 2.0F, 3.0F, 4.0F, 5.0F}};
  std::vector<float> whole(record.elements);
  decode_legacy_weights(tensor, value, Int2Order::kLsb, 0, whole);
  for (size_t i = 0; i < whole.size(); ++i) {
    const size_t row = i / 2100;
    const float expected = (static_cast<float>(data[i]) - value.zero_points[row / 2]) *
                           value.scales[row / 2] * value.equalization[row];
    ASSERT_EQ(whole[i], expected) << i;
  }
  for (const size_t first : {0UL, 1UL, 1023UL, 2099UL, 4199UL, 10499UL}) {
    std::vector<float> part(std::min<size_t>(2200, whole.size() - first));
    decode_legacy_weights(tensor, value, Int2Order::kLsb, first, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<long>(first)));
  }
}

}  // namespace
}  // namespace arrow_quant
