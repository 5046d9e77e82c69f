#include "codec/row.h"

#include <gtest/gtest.h>

namespace arrow_quant::codec::row {
namespace {

TEST(Row, ACodeIsASignedByte) {
  EXPECT_EQ(value(0x01), 1);
  EXPECT_EQ(value(0xFF), -1);
  EXPECT_EQ(value(0x81), -kMaxV);
  for (int v = -kMaxV; v <= kMaxV; ++v) EXPECT_EQ(value(encode(v)), v);
}

}  // namespace
}  // namespace arrow_quant::codec::row
