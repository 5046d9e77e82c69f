#include "kernels/dequantize_rows.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/isa_fixture.h"
#include "quantize/quantized_rows.h"
#include "run/format_decoder.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(DequantizeRows);

/// Packed rows of random bytes: every bit pattern of codes and parameters is legal.
struct RandomRows {
  AffineSpec spec;
  std::vector<uint8_t> codes, params;
  std::vector<uint16_t> scales;
  PackedRows packed;

  RandomRows(const AffineSpec& s, size_t rows, size_t cols)
      : spec(s),
        codes(rows * packed_row_bytes(cols, s.bit_width)),
        params(rows * param_row_bytes(cols, s)),
        scales(rows) {
    std::mt19937 random(static_cast<unsigned>(rows * 131 + cols));
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random());
    for (uint8_t& byte : params) byte = static_cast<uint8_t>(random());
    for (uint16_t& scale : scales) scale = static_cast<uint16_t>(random() % 0x7C00);
    if (spec.param_encoding == ParamEncoding::kFp16) {
      // Finite halves only.
      for (size_t i = 1; i < params.size(); i += 2) params[i] &= 0xBB;
    }
    packed = {codes.data(), params.data(), scales.data(), 0.125F, 3, rows, cols};
  }
};

void check_all(const AffineSpec& spec, size_t rows, size_t cols) {
  SCOPED_TRACE(describe(spec) + ", " + std::to_string(rows) + " x " + std::to_string(cols));
  const RandomRows data(spec, rows, cols);
  const size_t count = rows * cols;
  std::vector<float> weights(count + 1, -7.0F);
  std::vector<uint8_t> codes(count + 1, 0xEE);
  std::vector<int8_t> ints(count + 1, 0x55);
  dequantize_rows(spec, data.packed, weights.data());
  unpack_rows(spec, data.packed, codes.data());
  const bool has_ints = spec.param_encoding != ParamEncoding::kFp16;
  if (has_ints) expand_int8_rows(spec, data.packed, ints.data());
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      const size_t i = r * cols + c;
      ASSERT_EQ(weights[i], static_cast<float>(decode_weight(spec, data.packed, r, c))) << i;
      ASSERT_EQ(codes[i], decode_code(spec, data.packed, r, c)) << i;
      if (!has_ints) continue;
      ASSERT_EQ(ints[i], decode_v(spec, data.packed, r, c)) << i;
    }
  }
  EXPECT_EQ(weights[count], -7.0F) << "written past the end";
  EXPECT_EQ(codes[count], 0xEE);
  EXPECT_EQ(ints[count], 0x55);
}

TEST_P(DequantizeRows, DecodesArbitraryBytesExactlyAsTheFormatSays) {
  for (const AffineSpec& spec : all_specs({32, 64, 128})) {
    if (spec.method == Method::kSearch) continue;
    for (size_t cols : {1, 3, 8, 15, 33, 64, 100, 1023, 2500}) check_all(spec, 3, cols);
  }
}

TEST_P(DequantizeRows, HandlesUnusualGroupSizes) {
  for (const AffineSpec& spec : all_specs({8, 24, 96, 8192})) {
    if (spec.method == Method::kSearch) continue;
    for (size_t cols : {5, 200, 5000}) check_all(spec, 2, cols);
  }
}

TEST_P(DequantizeRows, TakesTheEqualizationOutAgain) {
  // 90 channels of 4 kernel positions; the larger one is above the size at which output is
  // streamed.
  for (const size_t rows : {3, 900}) {
    const AffineSpec spec{4, 64, ParamEncoding::kTwoLevel, Method::kRtn};
    RandomRows data(spec, rows, 360);
    std::vector<float> factors(90);
    for (size_t i = 0; i < 90; ++i) factors[i] = 0.25F + static_cast<float>(i % 17);
    data.packed.equalization = factors.data();
    data.packed.columns_per_factor = 4;
    std::vector<float> out(rows * 360);
    dequantize_rows(spec, data.packed, out.data());
    for (size_t i = 0; i < out.size(); i += 7) {
      const auto weight = static_cast<float>(decode_weight(spec, data.packed, i / 360, i % 360));
      ASSERT_EQ(out[i], weight / factors[i % 360 / 4]);
    }
  }
}

TEST_P(DequantizeRows, StreamsLargeOutputsToAnyAddress) {
  for (const AffineSpec& spec : {AffineSpec{4, 64, ParamEncoding::kTwoLevel, Method::kRtn},
                                 AffineSpec{2, 64, ParamEncoding::kFp16, Method::kRtn},
                                 AffineSpec{8, 64, ParamEncoding::kRow, Method::kRtn}}) {
    const size_t rows = 300, cols = 1001;  // above the size at which output is streamed
    const RandomRows data(spec, rows, cols);
    for (size_t shift = 0; shift < 3; ++shift) {
      std::vector<float> out(rows * cols + shift + 1, -7.0F);
      dequantize_rows(spec, data.packed, out.data() + shift);
      for (size_t i = 0; i < rows * cols; i += 13) {
        ASSERT_EQ(out[i + shift],
                  static_cast<float>(decode_weight(spec, data.packed, i / cols, i % cols)));
      }
      EXPECT_EQ(out.back(), -7.0F);
    }
  }
}

}  // namespace
}  // namespace arrow_quant
