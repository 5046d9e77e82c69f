#include "core/json.h"

#include <gtest/gtest.h>

#include <string>

#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::expect_error;

void refuse(const std::string& text, std::initializer_list<std::string> words,
            JsonLimits limits = {}) {
  expect_error(ErrorCode::kMetadata, words, [&] { parse_json(text, "config.json", limits); });
}

TEST(Json, EveryKindOfValueIsParsed) {
  const nlohmann::json json = parse_json(
      R"({"a": [1, -2, 2.5, 1e3, "x", true, null], "b": {"c": {}}, "": [[], [[1]], {"d": 2}]})",
      "");
  EXPECT_EQ(json["a"][0], 1);
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["a"][2], 2.5);
  EXPECT_EQ(json["a"][3], 1000.0);
  EXPECT_EQ(json["a"][4], "x");
  EXPECT_EQ(json["a"][5], true);
  EXPECT_TRUE(json["a"][6].is_null());
  EXPECT_TRUE(json["b"]["c"].is_object());
  EXPECT_EQ(json[""][1][0][0], 1);
  EXPECT_EQ(json[""][2]["d"], 2);
  EXPECT_EQ(parse_json("  3\n", ""), 3);
  EXPECT_EQ(parse_json("18446744073709551615", ""), ~0ULL);
}

TEST(Json, NumbersThatPythonWritesAreNullInAConfiguration) {
  const nlohmann::json json = parse_config(
      R"({"a": Infinity, "b": [-Infinity, NaN, 1], "NaN": "NaN \"Infinity", "c": "\\"})", "");
  EXPECT_TRUE(json["a"].is_null());
  EXPECT_TRUE(json["b"][0].is_null());
  EXPECT_TRUE(json["b"][1].is_null());
  EXPECT_EQ(json["b"][2], 1);
  EXPECT_EQ(json["NaN"], "NaN \"Infinity");
  EXPECT_EQ(json["c"], "\\");
  for (const char* text : {"{\"a\": Infinit}", "{\"a\": \"NaN", "{\"a\": NaNa}", "\"\\", "-"}) {
    expect_error(ErrorCode::kMetadata, {}, [&] { parse_config(text, "config.json"); });
  }
}

TEST(Json, DuplicateKeysAreRefusedAtEveryLevel) {
  refuse(R"({"a":1,"a":2})", {"config.json", "not valid JSON", "duplicate key 'a'"});
  refuse(R"({"x":[{"a":1,"b":2,"a":3}]})", {"duplicate key 'a'"});
  refuse(R"({"a":{},"\u0061":{}})", {"duplicate key 'a'"});
  const std::string name(1'000'000, 'n');
  refuse("{\"" + name + "\":1,\"" + name + "\":2}", {"duplicate key 'nnn", "..."});
}

TEST(Json, TheSameKeyInDifferentObjectsIsFine) {
  EXPECT_EQ(parse_json(R"({"a":{"a":[{"a":1},{"a":2}]}})", "")["a"]["a"][1]["a"], 2);
}

TEST(Json, WhatIsNotJsonIsRefusedWithThePosition) {
  refuse("", {"byte 1"});
  refuse("{", {"byte 2"});
  refuse("{} {}", {"byte 4"});
  refuse("{\"a\":NaN}", {"byte 6", "invalid literal"});
  refuse("[Infinity]", {"byte 2"});
  refuse("[1,]", {"byte 4"});
  refuse("{a:1}", {"byte 2"});
  refuse("[01]", {"byte 3"});
  refuse("[+1]", {"byte 2"});
  refuse("// x\n{}", {"byte 1"});
  refuse("[1e999]", {"number overflow"});
  refuse(std::string("{}\0", 3), {"byte 3", "NUL"});
  refuse(std::string("{}\0{\"b\":1}", 10), {"byte 3", "NUL"});
}

TEST(Json, TheMessageIsShortAndValidUtf8) {
  refuse("[\"" + std::string(1'000'000, 'x') + "\xff\"]", {"byte 1000003", "ill-formed UTF-8"});
  refuse("[1e" + std::string(1'000'000, '9') + "]", {"number overflow"});
  refuse("\xEF\xBB\xBF{}", {"byte order mark"});
}

TEST(Json, LoneSurrogatesAreRefused) {
  refuse(R"(["\ud800"])", {"surrogate"});
  refuse(R"(["\udc00"])", {"surrogate"});
}

TEST(Json, DepthIsBounded) {
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), ""));
  refuse(std::string(65, '[') + std::string(65, ']'), {"nested deeper than 64"});
  refuse(std::string(1'000'000, '['), {"nested deeper than 64"});
  refuse("{\"a\":{\"b\":{}}}", {"nested deeper than 2"}, {.max_depth = 2});
}

TEST(Json, SizeIsBounded) {
  EXPECT_NO_THROW(parse_json("[1, 2]", "", {.max_bytes = 6}));
  refuse("[1, 2]", {"6 bytes, at most 5 are read"}, {.max_bytes = 5});
}

}  // namespace
}  // namespace arrow_quant
