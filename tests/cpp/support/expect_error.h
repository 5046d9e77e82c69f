// Checks that a call raises arrow_quant::Error with a code and with words in its text.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "arrow_quant/error.h"

namespace arrow_quant::testing {

template <typename Call>
void expect_error(ErrorCode code, std::initializer_list<std::string> words, Call&& call) {
  try {
    call();
    ADD_FAILURE() << "expected an error" << (words.size() == 0 ? "" : " with " + *words.begin());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    const std::string text = error.what();
    EXPECT_LT(text.size(), 8192U);
    for (const std::string& word : words) {
      EXPECT_NE(text.find(word), std::string::npos) << "no '" << word << "' in: " << text;
    }
  }
}

}  // namespace arrow_quant::testing
