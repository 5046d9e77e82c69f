#include "read/shard_index.h"

#include <gtest/gtest.h>

#include <string>

#include "support/expect_error.h"

namespace arrow_quant {
namespace {

void refuse(const std::string& text, std::initializer_list<std::string> words) {
  testing::expect_error(ErrorCode::kMetadata, words,
                        [&] { parse_shard_index(text, "model.safetensors.index.json"); });
}

std::string index_with(const std::string& file) {
  return "{\"weight_map\":{\"a\":\"" + file + "\"}}";
}

TEST(ShardIndex, NamesTheFileOfEveryTensor) {
  const ShardIndex index = parse_shard_index(
      R"({"metadata":{"total_size":12,"x":[1]},
          "weight_map":{"a":"m-1.safetensors","b":"n.safetensors"}})",
      "");
  EXPECT_EQ(index.file_of.at("a"), "m-1.safetensors");
  EXPECT_EQ(index.file_of.at("b"), "n.safetensors");
  EXPECT_EQ(index.total_size, 12U);
}

TEST(ShardIndex, ATotalSizeThatIsNoNumberIsIgnored) {
  for (const char* metadata : {"{\"total_size\":\"12\"}", "{\"total_size\":-1}", "[]", "null"}) {
    const std::string text =
        std::string("{\"metadata\":") + metadata + ",\"weight_map\":{\"a\":\"m.safetensors\"}}";
    EXPECT_EQ(parse_shard_index(text, "").total_size, std::nullopt) << metadata;
  }
}

TEST(ShardIndex, B42NoPathLeavesTheFolder) {
  for (const char* file :
       {"../x.safetensors", "/etc/passwd", "a/b.safetensors", "C:\\\\x.safetensors", "",
        "x\\u0000y.safetensors", "x.safetensors\\u0000", ".", "..", "x.bin", ".safetensors",
        "..\\\\x.safetensors", "C:x.safetensors", "file:x.safetensors"}) {
    refuse(index_with(file), {"tensor 'a'", "expected a plain file name"});
  }
}

TEST(ShardIndex, B43AMalformedIndexIsRefused) {
  refuse("", {"not valid JSON"});
  refuse("[]", {"an object 'weight_map'"});
  refuse("{}", {"an object 'weight_map'"});
  refuse(R"({"weight_map":[]})", {"an object 'weight_map'"});
  refuse(R"({"weight_map":{}})", {"names no tensors"});
  refuse(R"({"weight_map":{"a":1}})", {"tensor 'a'", "expected a file name"});
  refuse(R"({"weight_map":{"a":"m.safetensors","a":"n.safetensors"}})", {"duplicate key 'a'"});
}

}  // namespace
}  // namespace arrow_quant
