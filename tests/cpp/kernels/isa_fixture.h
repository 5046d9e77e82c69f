// Runs a test once for every instruction set that this CPU and build support.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "kernels/isa.h"

namespace arrow_quant {

class IsaTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { force_isa(GetParam()); }
  void TearDown() override { force_isa(""); }
};

inline std::string isa_test_name(const ::testing::TestParamInfo<std::string>& param) {
  return param.param;
}

/// Defines `name` as a fixture whose tests run on every instruction set.
#define ARROW_QUANT_TEST_EVERY_ISA(name)                                                  \
  class name : public arrow_quant::IsaTest {};                                            \
  INSTANTIATE_TEST_SUITE_P(Isa, name, ::testing::ValuesIn(arrow_quant::supported_isas()), \
                           arrow_quant::isa_test_name)

}  // namespace arrow_quant
