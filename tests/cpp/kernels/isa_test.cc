#include "kernels/isa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "arrow_quant/error.h"
#include "kernels/convert.h"

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

}  // namespace
}  // namespace arrow_quant
