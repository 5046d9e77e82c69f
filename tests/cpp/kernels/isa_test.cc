#include "kernels/isa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "arrow_quant/error.h"
#include "hwy/targets.h"
#include "kernels/convert.h"
#include "kernels/crc32.h"
#include "kernels/wide_attention.h"

namespace arrow_quant {
namespace {

using testing::Contains;
using testing::HasSubstr;

TEST(Isa, ListsTheScalarFallbackAndUsesTheBestByDefault) {
  ASSERT_FALSE(supported_isas().empty());
  EXPECT_THAT(supported_isas(), Contains("scalar"));
  EXPECT_EQ(active_isa(), supported_isas().front());
}

TEST(Isa, UsesEveryInstructionSetThatItLists) {
  for (const std::string& isa : supported_isas()) {
    force_isa(isa);
    EXPECT_EQ(active_isa(), isa);
    const float values[3] = {1.0F, -7.0F, 3.0F};
    EXPECT_EQ(absmax(values, 3), 7.0F);
  }
  force_isa("");
  EXPECT_EQ(active_isa(), supported_isas().front());
}

TEST(Isa, IgnoresTheCaseOfNames) {
  force_isa("SCALAR");
  EXPECT_EQ(active_isa(), "scalar");
  force_isa("");
}

TEST(Isa, RefusesAnUnknownNameAndSaysWhatIsSupported) {
  force_isa("scalar");
  try {
    force_isa("avx1024");
    FAIL() << "no exception";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfiguration);
    EXPECT_THAT(error.what(), HasSubstr("avx1024"));
    for (const std::string& isa : supported_isas()) EXPECT_THAT(error.hint(), HasSubstr(isa));
  }
  EXPECT_EQ(active_isa(), "scalar") << "a refused name must not change the choice";
  force_isa("");
}

/// The instruction set that a process uses whose first call of the engine is a checksum, as when it
/// reads an artefact.
void exit_with_target_of_first_kernel(const char* wanted) {
  ::setenv("ARROW_QUANT_FORCE_ISA", wanted, 1);
  const uint32_t checksum = crc32("123456789", 9);
  const bool alone = (hwy::SupportedTargets() & (hwy::SupportedTargets() - 1)) == 0;
  std::exit(checksum == 0xCBF43926 && active_isa() == wanted && alone ? 0 : 1);
}

TEST(IsaDeathTest, TheEnvironmentChoosesWhicheverKernelIsCalledFirst) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a process of its own, in which nothing ran
  EXPECT_EXIT(exit_with_target_of_first_kernel("scalar"), testing::ExitedWithCode(0), "");
}

void exit_refused() {
  ::setenv("ARROW_QUANT_FORCE_ISA", "avx9", 1);
  const float values[3] = {1.0F, -7.0F, 3.0F};
  const bool computes = absmax(values, 3) == 7.0F;
  try {
    check_isa_override();
  } catch (const Error& error) {
    std::exit(computes && error.code() == ErrorCode::kConfiguration ? 0 : 1);
  }
  std::exit(2);
}

TEST(IsaDeathTest, AnUnknownNameInTheEnvironmentIsAnErrorAndNoEndOfTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(exit_refused(), testing::ExitedWithCode(0), "");
}

TEST(Isa, HasAKernelForPairsOfBfloat16OnlyWhereItHasTheirProducts) {
  for (const std::string& isa : supported_isas()) {
    force_isa(isa);
    EXPECT_NE(attend_singles(), nullptr);
    EXPECT_EQ(attend_pairs() != nullptr, has_bf16_products()) << isa;
  }
  force_isa("");
}

}  // namespace
}  // namespace arrow_quant
