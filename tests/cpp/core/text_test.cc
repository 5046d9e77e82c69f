#include "core/text.h"

#include <gtest/gtest.h>

#include <string>

namespace arrow_quant {
namespace {

TEST(Nearest, FindsTheCandidateWithTheFewestEdits) {
  EXPECT_EQ(nearest("to_qq", {"to_k", "to_q", "proj_out"}), "to_q");
  EXPECT_EQ(nearest("unet", {"transformer", "vae"}), "");
  EXPECT_EQ(nearest("", {"a"}), "");
  EXPECT_EQ(nearest("a", {}), "");
}

TEST(Join, CutsLongListsWithACount) {
  EXPECT_EQ(join({}), "");
  EXPECT_EQ(join({"a", "b"}), "a, b");
  EXPECT_EQ(join({"a", "b", "c", "d"}, 2), "a, b and 2 more");
}

TEST(Printable, CutsLongTextBetweenCharacters) {
  EXPECT_EQ(printable("short"), "short");
  EXPECT_EQ(printable(std::string(80, 'x')), std::string(80, 'x'));
  EXPECT_EQ(printable(std::string(81, 'x')), std::string(80, 'x') + "...");
  for (size_t before = 76; before <= 80; ++before) {  // a four-byte character across the cut
    const std::string text = std::string(before, 'x') + "\xF0\x9F\x98\x80" + std::string(10, 'y');
    const std::string cut = printable(text);
    EXPECT_EQ(cut, (before == 76 ? text.substr(0, 80) : std::string(before, 'x')) + "...");
  }
}

}  // namespace
}  // namespace arrow_quant
