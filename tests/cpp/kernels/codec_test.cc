// Every kernel that reads or writes parameter bytes against the scalar definitions of src/codec.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

#include "codec/fp16.h"
#include "codec/packed_codes.h"
#include "codec/residual_binary.h"
#include "codec/row.h"
#include "codec/spec.h"
#include "codec/two_level.h"
#include "core/half.h"
#include "kernels/dequantize_rows.h"
#include "kernels/expand_panel.h"
#include "kernels/gemv_packed.h"
#include "kernels/isa_fixture.h"
#include "kernels/residual.h"
#include "kernels/rtn.h"
#include "kernels/search.h"
#include "kernels/unpack.h"

namespace arrow_quant {
namespace {

ARROW_QUANT_TEST_EVERY_ISA(CodecKernels);

std::vector<uint8_t> random_bytes(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

/// Random rows under a spec; row scales and fp16 parameters are ordinary numbers.
struct RandomRows {
  AffineSpec spec;
  size_t rows, cols;
  int8_t unit;
  std::vector<uint8_t> codes, params;
  std::vector<uint16_t> scales;

  RandomRows(const AffineSpec& which, size_t row_count, size_t col_count, int8_t offset_unit)
      : spec(which),
        rows(row_count),
        cols(col_count),
        unit(offset_unit),
        codes(random_bytes(rows * packed_row_bytes(cols, spec.bit_width), 1)),
        params(random_bytes(rows * param_row_bytes(cols, spec), 2)) {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> number(-1.0F, 1.0F);
    for (size_t g = 0; spec.param_encoding == ParamEncoding::kFp16 && 4 * g < params.size(); ++g) {
      codec::fp16::write({f32_to_f16(number(random)), f32_to_f16(number(random))}, params.data(),
                         g);
    }
    for (size_t r = 0; r < rows; ++r) scales.push_back(f32_to_f16(0.5F + number(random) / 4));
  }

  PackedRows view() const {
    return {.codes = codes.data(),
            .params = params.data(),
            .row_scales = scales.data(),
            .tensor_scale = 0.25F,
            .offset_unit = unit,
            .rows = rows,
            .cols = cols};
  }
  int code(size_t r, size_t c) const {
    return codec::read_code(codes.data() + r * packed_row_bytes(cols, spec.bit_width),
                            spec.bit_width, c);
  }
  const uint8_t* row_params(size_t r) const {
    return params.data() + r * param_row_bytes(cols, spec);
  }
  /// The int8 value of a weight, as src/codec defines it.
  int value(size_t r, size_t c) const {
    const auto byte_code = static_cast<uint8_t>(code(r, c));
    if (spec.param_encoding == ParamEncoding::kRow) return codec::row::value(byte_code);
    const uint8_t byte = row_params(r)[c / codec::weights_per_param(spec)];
    if (spec.param_encoding == ParamEncoding::kResidualBinary) {
      return codec::residual_binary::value(codec::residual_binary::decode(byte), byte_code);
    }
    return codec::two_level::value(codec::two_level::decode(byte), byte_code, spec.bit_width, unit);
  }
  float weight(size_t r, size_t c) const {
    if (spec.param_encoding != ParamEncoding::kFp16) {
      return 0.25F * (f16_to_f32(scales[r]) * static_cast<float>(value(r, c)));
    }
    const size_t group = c / static_cast<size_t>(spec.group_size);
    return 0.25F * codec::fp16::value(codec::fp16::read(row_params(r), group), code(r, c));
  }
};

/// Every valid spec with groups of a few sizes.
std::vector<AffineSpec> specs() {
  std::vector<AffineSpec> all;
  for (ParamEncoding encoding : {ParamEncoding::kTwoLevel, ParamEncoding::kFp16,
                                 ParamEncoding::kRow, ParamEncoding::kResidualBinary}) {
    for (int bits : {2, 4, 8}) {
      for (int group : {8, 32, 56, 64, 96, 128}) {
        const AffineSpec spec{.bit_width = bits, .group_size = group, .param_encoding = encoding};
        if (codec::spec_problem(spec).empty()) all.push_back(spec);
      }
    }
  }
  return all;
}

TEST_P(CodecKernels, DequantizeAsTheCodecDefines) {
  for (const AffineSpec& spec : specs()) {
    for (size_t cols : {1U, 63U, 130U, 515U}) {
      const RandomRows rows(spec, 3, cols, 5);
      std::vector<float> out(rows.rows * cols);
      dequantize_rows(spec, rows.view(), out.data());
      for (size_t r = 0; r < rows.rows; ++r) {
        for (size_t c = 0; c < cols; ++c) {
          ASSERT_NEAR(out[r * cols + c], rows.weight(r, c), 1e-5)
              << to_string(spec.param_encoding) << spec.bit_width << " bits, group "
              << spec.group_size << ", column " << c;
        }
      }
    }
  }
}

TEST_P(CodecKernels, ExpandToTheInt8ValuesOfTheCodec) {
  for (const AffineSpec& spec : specs()) {
    if (spec.param_encoding == ParamEncoding::kFp16) continue;
    for (int unit : {0, 3, 17, -128}) {
      const RandomRows rows(spec, 2, 515, static_cast<int8_t>(unit));
      std::vector<int8_t> out(rows.rows * rows.cols);
      expand_int8_rows(spec, rows.view(), out.data());
      for (size_t r = 0; r < rows.rows; ++r) {
        for (size_t c = 0; c < rows.cols; ++c) {
          ASSERT_EQ(out[r * rows.cols + c], rows.value(r, c));
        }
      }
    }
  }
}

TEST_P(CodecKernels, PanelsHoldTheInt8ValuesOfTheCodec) {
  for (const AffineSpec& spec : specs()) {
    const size_t group = codec::weights_per_param(spec);
    if (!codec::has_sub_groups(spec.param_encoding) || !expands_to_panel(spec.bit_width, group)) {
      continue;
    }
    const RandomRows rows(spec, kPanelColumns, 192, 9);
    const std::vector<int8_t> units(kPanelColumns, rows.unit);
    const bool residual = spec.param_encoding == ParamEncoding::kResidualBinary;
    std::vector<uint8_t> scratch(expand_scratch_bytes(spec.bit_width, rows.cols, group));
    std::vector<uint8_t> panel(expanded_bytes(spec.bit_width, rows.cols));
    expand_panel({.codes = rows.codes.data(),
                  .code_stride = packed_row_bytes(rows.cols, spec.bit_width),
                  .params = rows.params.data(),
                  .param_stride = param_row_bytes(rows.cols, spec),
                  .offset_units = residual ? nullptr : units.data(),
                  .outputs = rows.rows,
                  .inputs = rows.cols,
                  .group = group,
                  .bits = spec.bit_width},
                 scratch.data(), panel.data());
    for (size_t r = 0; r < rows.rows; ++r) {
      for (size_t c = 0; c < rows.cols; ++c) {
        const int found = panel[(c / 4 * kPanelColumns + r) * 4 + c % 4] - kPanelBias;
        ASSERT_EQ(found, rows.value(r, c)) << to_string(spec.param_encoding) << ", column " << c;
      }
    }
  }
}

TEST_P(CodecKernels, LevelsOfTwoLevelBytesAreThoseOfTheCodec) {
  const std::vector<uint8_t> params = random_bytes(256, 4);
  for (int bits : {2, 4}) {
    std::vector<float> step(params.size()), base(params.size());
    two_level_levels({bits, 7.0F, 0.5F}, params.data(), params.size(), step.data(), base.data());
    for (size_t g = 0; g < params.size(); ++g) {
      const codec::two_level::Param param = codec::two_level::decode(params[g]);
      ASSERT_EQ(step[g], 0.5F * static_cast<float>(param.q));
      ASSERT_EQ(base[g], 0.5F * static_cast<float>(codec::two_level::base(param, bits, 7)));
    }
  }
}

TEST_P(CodecKernels, ChosenTwoLevelParametersCoverTheRangeByTheCodecsValues) {
  // Ranges that bits, m and the row scale can hold.
  std::vector<float> low, high;
  for (int i = 0; i < 50; ++i) {
    low.push_back(-10.0F - static_cast<float>(i) / 2);
    high.push_back(low.back() + 20.0F + static_cast<float>(i));
  }
  std::vector<uint8_t> params(low.size());
  two_level_params({4, 3.0F, 1.0F}, low.data(), high.data(), low.size(), 1.0F, params.data());
  for (size_t g = 0; g < low.size(); ++g) {
    const codec::two_level::Param param = codec::two_level::decode(params[g]);
    const auto half = static_cast<float>(param.q) * 0.5001F;
    EXPECT_LE(static_cast<float>(codec::two_level::value(param, 0, 4, 3)) - half, low[g]);
    EXPECT_GE(static_cast<float>(codec::two_level::value(param, 15, 4, 3)) + half, high[g]);
  }
}

TEST_P(CodecKernels, SearchesRecoverWeightsThatTheCodecCanHold) {
  // Every lane's weights are the values of one parameter byte: an exact search finds no error.
  constexpr size_t kDepth = 32;
  std::vector<float> x(kDepth * kTileLanes), low(kTileLanes), high(kTileLanes);
  std::vector<float> scale(kTileLanes, 1.0F), step(kTileLanes), base(kTileLanes);
  std::vector<float> error(kTileLanes), outer(kTileLanes), inner(kTileLanes);
  std::vector<uint8_t> params(kTileLanes);
  for (size_t lane = 0; lane < kTileLanes; ++lane) {
    const codec::two_level::Param param{.q = 2 + static_cast<int>(lane % 7),
                                        .z = static_cast<int>(lane % 5) - 2};
    for (size_t i = 0; i < kDepth; ++i) {
      const int code = static_cast<int>(i % 16);
      x[i * kTileLanes + lane] = static_cast<float>(codec::two_level::value(param, code, 4, 3));
    }
    step[lane] = static_cast<float>(param.q);
    base[lane] = static_cast<float>(codec::two_level::base(param, 4, 3));
  }
  std::vector<float> centered = x;
  center_tile(centered.data(), kDepth, low.data(), high.data());
  TwoLevelStart start;
  start.bits = 4, start.offset_unit = 3.0F, start.row_scale = scale.data();
  start.step = step.data(), start.base = base.data();
  search_two_level({.x = centered.data(), .depth = kDepth, .low = low.data(), .high = high.data()},
                   start, {-1, 1, 3}, params.data(), error.data());
  for (size_t lane = 0; lane < kTileLanes; ++lane) {
    const codec::two_level::Param found = codec::two_level::decode(params[lane]);
    EXPECT_EQ(found.q, 2 + static_cast<int>(lane % 7));
    EXPECT_EQ(found.z, static_cast<int>(lane % 5) - 2);
  }
  for (size_t lane = 0; lane < kTileLanes; ++lane) {
    const codec::residual_binary::Param param{.q1 = 5 + static_cast<int>(lane % 8),
                                              .q2 = static_cast<int>(lane % 5)};
    outer[lane] = static_cast<float>(param.q1 + param.q2);
    inner[lane] = static_cast<float>(param.q1 - param.q2);
    for (size_t i = 0; i < kDepth; ++i) {
      const int code = static_cast<int>(i % 4);
      x[i * kTileLanes + lane] = static_cast<float>(codec::residual_binary::value(param, code));
    }
  }
  centered = x;
  center_tile(centered.data(), kDepth, low.data(), high.data());
  search_residual_binary(
      {.x = centered.data(), .depth = kDepth, .low = low.data(), .high = high.data()}, scale.data(),
      outer.data(), inner.data(), params.data(), error.data());
  for (size_t lane = 0; lane < kTileLanes; ++lane) {
    const codec::residual_binary::Param found = codec::residual_binary::decode(params[lane]);
    EXPECT_EQ(found.q1, 5 + static_cast<int>(lane % 8));
    EXPECT_EQ(found.q2, static_cast<int>(lane % 5));
  }
}

TEST_P(CodecKernels, ProductsOfOneTokenAreThoseOfTheInt8ValuesOfTheCodec) {
  for (int bits : {2, 4}) {
    const AffineSpec spec{
        .bit_width = bits, .group_size = 128, .param_encoding = ParamEncoding::kTwoLevel};
    const size_t group = codec::weights_per_param(spec);
    ASSERT_TRUE(gemv_takes_group(bits, group));
    const RandomRows rows(spec, 7, 512, 10);  // with such a unit some values are clamped
    const std::vector<uint8_t> x = random_bytes(rows.cols, 6);
    const size_t per_byte = codec::codes_per_byte(bits);
    // Arranged as GemvToken says.
    std::vector<int8_t> limbs(rows.cols), group_limbs(kGroupPlanes * 64);
    double sum = 0;
    for (size_t c = 0; c < rows.cols; ++c) {
      const size_t byte = c / per_byte, phase = c % per_byte;
      const size_t block = byte / kGemvBlock;
      limbs[(block * per_byte + phase) * kGemvBlock + byte % kGemvBlock] =
          static_cast<int8_t>(x[c]);
      sum += static_cast<int8_t>(x[c]);
    }
    for (size_t g = 0; g < rows.cols / group; ++g) {
      int total = 0;
      for (size_t i = 0; i < group; ++i) total += static_cast<int8_t>(x[g * group + i]);
      for (size_t p = kGroupPlanes; p-- > 0;) {
        const auto low = static_cast<int8_t>(total);
        group_limbs[p * 64 + g] = low;
        total = (total - low) / 256;
      }
    }
    std::vector<float> out(rows.rows);
    gemv_packed({rows.codes.data(), rows.params.data(), rows.rows, rows.cols, bits, group, 10},
                {limbs.data(), group_limbs.data(), 64, sum}, 1, out.data());
    for (size_t r = 0; r < rows.rows; ++r) {
      int expected = 0;
      for (size_t c = 0; c < rows.cols; ++c) {
        expected += static_cast<int8_t>(x[c]) * rows.value(r, c);
      }
      EXPECT_NEAR(out[r], expected, 1.0) << bits << " bits, row " << r;
    }
  }
}

}  // namespace
}  // namespace arrow_quant
