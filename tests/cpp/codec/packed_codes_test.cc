#include "codec/packed_codes.h"

#include <gtest/gtest.h>

#include <vector>

namespace arrow_quant::codec {
namespace {

TEST(PackedCodes, TheFirstCodeIsInTheLowestBits) {
  const uint8_t row[] = {0b11'10'01'00, 0x2F};
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(read_code(row, 2, i), i);
  EXPECT_EQ(read_code(row, 4, 2), 0xF);
  EXPECT_EQ(read_code(row, 4, 3), 0x2);
  EXPECT_EQ(read_code(row, 8, 1), 0x2F);
}

TEST(PackedCodes, WhatIsWrittenIsReadAtEveryWidth) {
  for (int bits : {2, 4, 8}) {
    constexpr size_t kCount = 37;
    std::vector<uint8_t> row(packed_row_bytes(kCount, bits));
    const auto code = [&](size_t i) { return static_cast<uint8_t>(i * 73 & code_mask(bits)); };
    for (size_t i = 0; i < kCount; ++i) write_code(row.data(), bits, i, code(i));
    for (size_t i = 0; i < kCount; ++i) EXPECT_EQ(read_code(row.data(), bits, i), code(i));
  }
}

}  // namespace
}  // namespace arrow_quant::codec
