#include "codec/spec.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace arrow_quant::codec {
namespace {

constexpr ParamEncoding kEncodings[] = {ParamEncoding::kTwoLevel, ParamEncoding::kFp16,
                                        ParamEncoding::kRow, ParamEncoding::kResidualBinary};

AffineSpec spec_of(int bits, int group, ParamEncoding encoding) {
  return {.bit_width = bits, .group_size = group, .param_encoding = encoding};
}

TEST(Spec, EveryEncodingHasItsWidths) {
  for (int bits = -1; bits <= 16; ++bits) {
    const bool any = bits == 2 || bits == 4 || bits == 8;
    const auto valid = [&](ParamEncoding encoding) {
      return spec_problem(spec_of(bits, 64, encoding)).empty();
    };
    EXPECT_EQ(valid(ParamEncoding::kFp16), any) << bits;
    EXPECT_EQ(valid(ParamEncoding::kTwoLevel), bits == 2 || bits == 4) << bits;
    EXPECT_EQ(valid(ParamEncoding::kRow), bits == 8) << bits;
    EXPECT_EQ(valid(ParamEncoding::kResidualBinary), bits == 2) << bits;
  }
}

TEST(Spec, GroupsAreMultiplesOf8AndOf32WhereTheyHaveSubGroups) {
  for (int group = -8; group <= 65544; group += group < 200 ? 1 : 4) {
    const bool valid = group >= 8 && group <= 65536 && group % 8 == 0;
    for (ParamEncoding encoding : kEncodings) {
      const bool multiple = !has_sub_groups(encoding) || group % 32 == 0;
      EXPECT_EQ(group_size_problem(group, encoding).empty(), valid && multiple) << group;
    }
  }
}

TEST(Spec, AProblemIsRaisedWithTheNumberThatWasFound) {
  testing::expect_error(ErrorCode::kConfiguration, {"tensor 'w'", "group_size: 56", "32"}, [] {
    check_spec(spec_of(2, 56, ParamEncoding::kTwoLevel), {.tensor = "w"});
  });
  testing::expect_error(ErrorCode::kConfiguration, {"'two_level'", "2 or 4", "found 8"},
                        [] { check_spec(spec_of(8, 64, ParamEncoding::kTwoLevel)); });
  testing::expect_error(ErrorCode::kConfiguration, {"group_size: 0"},
                        [] { check_spec(spec_of(4, 0, ParamEncoding::kFp16)); });
}

TEST(Spec, ParametersOfARowAreOnePerGroupOrSubGroup) {
  for (ParamEncoding encoding : kEncodings) {
    for (int bits : {2, 4, 8}) {
      for (int group : {8, 32, 56, 64, 128}) {
        const AffineSpec spec = spec_of(bits, group, encoding);
        if (!spec_problem(spec).empty()) continue;
        for (uint64_t cols : {1U, 7U, 16U, 63U, 64U, 65U, 1000U}) {
          const uint64_t each = weights_per_param(spec);
          const uint64_t params = (cols + each - 1) / each * bytes_per_param(encoding);
          EXPECT_EQ(param_row_bytes(cols, spec), params);
          const uint64_t scale = encoding == ParamEncoding::kFp16 ? 0 : 2;
          const uint64_t codes = (cols * static_cast<uint64_t>(bits) + 7) / 8;
          EXPECT_EQ(stored_bytes(spec, 3, cols), 3 * (codes + params + scale));
        }
      }
    }
  }
}

TEST(Spec, FourBitsInGroupsOf128CostAByteForEvery32WeightsAndTwoARow) {
  const AffineSpec spec = spec_of(4, 128, ParamEncoding::kTwoLevel);
  EXPECT_EQ(stored_bytes(spec, 1, 4096), 2048U + 128U + 2U);
}

}  // namespace
}  // namespace arrow_quant::codec
