#include "kernels/crc32.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Crc32);

/// Bit by bit, from the definition.
uint32_t reference(const uint8_t* data, size_t size) {
  uint32_t crc = ~0U;
  for (size_t i = 0; i < size; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320U : 0);
  }
  return ~crc;
}

TEST_P(Crc32, HasTheCheckValueOfTheStandard) {
  EXPECT_EQ(crc32("123456789", 9), 0xCBF43926U);
  EXPECT_EQ(crc32("", 0), 0U);
}

TEST_P(Crc32, EqualsTheDefinitionForEveryLengthAndAlignment) {
  std::vector<uint8_t> bytes(1000);
  uint32_t state = 1;
  for (uint8_t& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(state >> 24);
  }
  for (size_t size = 0; size <= 700; ++size) {
    const size_t offset = size % 17;
    ASSERT_EQ(crc32(bytes.data() + offset, size), reference(bytes.data() + offset, size)) << size;
  }
  const std::vector<uint8_t> zeros(4096, 0);
  EXPECT_EQ(crc32(zeros.data(), zeros.size()), reference(zeros.data(), zeros.size()));
}

}  // namespace
}  // namespace arrow_quant
