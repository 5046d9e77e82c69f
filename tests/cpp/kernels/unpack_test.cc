#include "kernels/unpack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "kernels/isa_fixture.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(Unpack);

std::vector<uint8_t> random_bytes(size_t count) {
  std::mt19937 random(static_cast<unsigned>(count) + 1);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

int code_at(const std::vector<uint8_t>& packed, int bits, size_t i) {
  const size_t b = static_cast<size_t>(bits);
  return packed[i * b / 8] >> (i * b % 8) & ((1 << bits) - 1);
}

constexpr size_t kCounts[] = {1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 200, 1023, 1024, 1025, 3333};

TEST_P(Unpack, ReadsCodesFromTheLowestBitsUp) {
  for (int bits : {2, 4, 8}) {
    for (size_t count : kCounts) {
      const auto packed = random_bytes((count * static_cast<size_t>(bits) + 7) / 8);
      std::vector<uint8_t> out(count + 1, 0xCC);
      unpack_codes(bits, packed.data(), count, out.data());
      for (size_t i = 0; i < count; ++i) ASSERT_EQ(out[i], code_at(packed, bits, i));
      EXPECT_EQ(out[count], 0xCC) << "written past the end";
    }
  }
}

TEST_P(Unpack, DequantizesGroupsCachedOrStreamed) {
  for (int bits : {2, 4, 8}) {
    for (size_t group : {8, 24, 64, 5000}) {
      for (size_t count : kCounts) {
        const auto packed = random_bytes((count * static_cast<size_t>(bits) + 7) / 8);
        const size_t groups = (count + group - 1) / group;
        std::vector<float> step(groups), base(groups);
        for (size_t g = 0; g < groups; ++g) {
          step[g] = 0.5F + static_cast<float>(g);
          base[g] = -static_cast<float>(g);
        }
        for (bool stream : {false, true}) {
          std::vector<float> out(count + 2, -9.0F);
          float* to = out.data() + count % 2;
          dequantize_groups(bits, packed.data(), count, {step.data(), base.data(), group}, 20.0F,
                            {0.25F, stream}, to);
          finish_stream();
          for (size_t i = 0; i < count; ++i) {
            const float code = static_cast<float>(code_at(packed, bits, i));
            const float v = step[i / group] * code + base[i / group];
            ASSERT_EQ(to[i], 0.25F * std::clamp(v, -20.0F, 20.0F));
          }
          EXPECT_EQ(to[count], -9.0F) << "written past the end";
        }
      }
    }
  }
}

TEST_P(Unpack, DequantizesSignedBytes) {
  for (size_t count : kCounts) {
    const auto codes = random_bytes(count);
    std::vector<float> out(count + 1, -9.0F);
    dequantize_int8(codes.data(), count, 0.75F, {2.0F, false}, out.data());
    for (size_t i = 0; i < count; ++i) {
      ASSERT_EQ(out[i], 1.5F * static_cast<float>(static_cast<int8_t>(codes[i])));
    }
    EXPECT_EQ(out[count], -9.0F);
  }
}

TEST_P(Unpack, ExpandsTwoLevelCodesToInt8) {
  for (int bits : {2, 4}) {
    for (int unit : {0, 1, 3, 17, 127, -128}) {
      for (size_t group : {8, 16, 24, 32}) {
        for (size_t count : kCounts) {
          const auto packed = random_bytes((count * static_cast<size_t>(bits) + 7) / 8);
          const auto params = random_bytes((count + group - 1) / group);
          std::vector<int8_t> out(count + 1, 0x55);
          expand_two_level(bits, packed.data(), count, params.data(), unit, group, out.data());
          for (size_t i = 0; i < count; ++i) {
            const int param = params[i / group];
            const int code = code_at(packed, bits, i) - (1 << (bits - 1));
            const int v = (param % 16 + 1) * code + unit * (param / 16 - 8);
            ASSERT_EQ(out[i], std::clamp(v, -127, 127));
          }
          EXPECT_EQ(out[count], 0x55) << "written past the end";
        }
      }
    }
  }
}

}  // namespace
}  // namespace arrow_quant
