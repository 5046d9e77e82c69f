#include "io/folds.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/json.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

Fold adaptive() {
  return {
      .layers = {"q.weight", "k.weight"},
      .sources = {{.name = "ada.weight", .row = 3}, {.name = "ada.bias", .row = 3, .offset = 1.0}}};
}

TEST(Folds, ComeBackFromJson) {
  const std::vector<Fold> folds = {adaptive(), {.layers = {"v"}, .sources = {{.name = "norm"}}}};
  const std::string text = folds_json(folds).dump();
  EXPECT_EQ(read_folds(parse_json(text, "file"), "file"), folds);
}

TEST(Folds, ComeBackFromJsonWithTheirFactors) {
  const std::vector<ChosenFold> folds = {
      {.fold = adaptive(), .factors = {1.0F, 4096.0F, 1.0F / 4096, 1.090507733F}}};
  const nlohmann::json json = chosen_folds_json(folds);
  EXPECT_EQ(json[0]["factors"], "80e02081");
  const std::vector<ChosenFold> found = read_chosen_folds(json, "file");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].fold, folds[0].fold);
  EXPECT_EQ(found[0].factors, folds[0].factors);
}

TEST(Folds, RefuseWhatNobodyWrote) {
  for (const char* text :
       {R"({})", R"([1])", R"([{"layers":[],"sources":[{"name":"a","row":0,"offset":0}]}])",
        R"([{"layers":["l"],"sources":[]}])", R"([{"layers":"l","sources":[]}])",
        R"([{"layers":[2],"sources":[{"name":"a","row":0,"offset":0}]}])",
        R"([{"layers":["l"],"sources":[{"name":"a","row":-1,"offset":0}]}])",
        R"([{"layers":["l"],"sources":[{"name":"a","row":1e30,"offset":0}]}])",
        R"([{"layers":["l"],"sources":[{"name":"a","row":18446744073709551615,"offset":0}]}])",
        R"([{"layers":["l"],"sources":[{"name":"a","row":0,"offset":"x"}]}])",
        R"([{"layers":["l"],"sources":[{"name":"a","row":0}]}])"}) {
    SCOPED_TRACE(text);
    testing::expect_error(ErrorCode::kMetadata, {"malformed folds"},
                          [&] { (void)read_folds(parse_json(text, "file"), "file"); });
  }
}

TEST(Folds, RefuseFactorsThatAreNoBytesOfFactors) {
  nlohmann::json json =
      chosen_folds_json(std::vector<ChosenFold>{{.fold = adaptive(), .factors = {1.0F}}});
  for (const char* factors : {"", "8", "8g", "8G", "zz80", "00", "ff"}) {
    SCOPED_TRACE(factors);
    json[0]["factors"] = factors;
    testing::expect_error(ErrorCode::kMetadata, {"malformed folds"},
                          [&] { (void)read_chosen_folds(json, "file"); });
  }
  json[0]["factors"] = nlohmann::json::array({128});
  testing::expect_error(ErrorCode::kMetadata, {"a name is no text"},
                        [&] { (void)read_chosen_folds(json, "file"); });
}

}  // namespace
}  // namespace arrow_quant
