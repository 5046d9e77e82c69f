// What the reader of safetensors headers accepts.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "core/hash.h"
#include "read/safetensors_builder.h"
#include "read/safetensors_header.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

using testing::entry;
using testing::SafetensorsBuilder;

SafetensorsHeader parse(const std::string& header, uint64_t data_bytes) {
  return parse_safetensors_header(header, 8 + header.size() + data_bytes, "m.safetensors");
}

SafetensorsHeader parse(const SafetensorsBuilder& builder) {
  return parse(builder.header(), builder.data_bytes());
}

TEST(SafetensorsHeader, EveryDtypeIsReadWithItsSize) {
  SafetensorsBuilder builder;
  for (int i = 0; i <= static_cast<int>(DType::kF6E3M2); ++i) {
    builder.add("t" + std::to_string(i), {2, 4}, static_cast<DType>(i));
  }
  const SafetensorsHeader header = parse(builder);
  ASSERT_EQ(header.tensors.size(), 22U);
  uint64_t offset = 8 + builder.header().size();
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    const TensorInfo& tensor = header.tensors[i];
    EXPECT_EQ(tensor.name, "t" + std::to_string(i));
    EXPECT_EQ(tensor.dtype, static_cast<DType>(i));
    EXPECT_EQ(tensor.shape, (std::vector<uint64_t>{2, 4}));
    EXPECT_EQ(tensor.nbytes, dtype_info(tensor.dtype).bits);
    EXPECT_EQ(tensor.offset, offset);
    offset += tensor.nbytes;
  }
}

TEST(SafetensorsHeader, TensorsComeByOffsetWhateverTheirOrderInTheText) {
  const SafetensorsHeader header =
      parse("{" + entry("late", "U8", "3", 2, 5) + "," + entry("early", "U8", "2", 0, 2) + "}", 5);
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].name, "early");
  EXPECT_EQ(header.tensors[1].name, "late");
}

TEST(SafetensorsHeader, A26EmptyTensorsAreListedAtEveryBoundary) {
  SafetensorsBuilder builder;
  builder.add("first", {0}).add("a", {4}).add("middle", {3, 0, 2}).add("b", {4}).add("last", {0});
  const SafetensorsHeader header = parse(builder);
  ASSERT_EQ(header.tensors.size(), 5U);
  EXPECT_EQ(header.tensors[2].name, "middle");
  EXPECT_EQ(header.tensors[2].elements(), 0U);
  EXPECT_EQ(header.tensors[4].name, "last");
}

TEST(SafetensorsHeader, A26AModelOfEmptyTensorsOnlyIsValid) {
  EXPECT_EQ(parse(SafetensorsBuilder().add("a", {0}).add("b", {0, 5})).tensors.size(), 2U);
}

TEST(SafetensorsHeader, AZeroDimensionBesideHugeOnesIsEmpty) {
  const std::string huge = "281474976710656,281474976710656,0,281474976710656";
  const SafetensorsHeader header = parse("{" + entry("a", "F64", huge, 0, 0) + "}", 0);
  EXPECT_EQ(header.tensors[0].elements(), 0U);
}

TEST(SafetensorsHeader, ScalarsAndEightDimensionsAreRead) {
  SafetensorsBuilder builder;
  builder.add("scalar", {}).add("eight", {1, 2, 1, 2, 1, 2, 1, 2});
  const SafetensorsHeader header = parse(builder);
  EXPECT_EQ(header.tensors[0].elements(), 1U);
  EXPECT_EQ(header.tensors[1].shape.size(), 8U);
}

TEST(SafetensorsHeader, A28MetadataIsReadUpTo16MiB) {
  const std::string longest((16U << 20) - 1, 'x');
  SafetensorsBuilder builder;
  builder.add("a", {1}).metadata("{\"k\":\"" + longest + "\"}");
  EXPECT_EQ(parse(builder).metadata.at("k"), longest);
  SafetensorsBuilder usual;
  usual.metadata("{\"format\":\"pt\",\"modality\":\"image\"}").add("a", {1});
  EXPECT_EQ(parse(usual).metadata.at("modality"), "image");
}

TEST(SafetensorsHeader, TrailingSpacesArePadding) {
  SafetensorsBuilder builder;
  builder.add("a", {1});
  EXPECT_EQ(parse(builder.header() + std::string(63, ' '), 4).tensors.size(), 1U);
}

TEST(SafetensorsHeader, B48ANameOf4096BytesWorks) {
  const std::string name(4096, 'n');
  EXPECT_EQ(parse(SafetensorsBuilder().add(name, {1})).tensors[0].name, name);
  EXPECT_THROW(parse(SafetensorsBuilder().add(name + "n", {1})), Error);
}

TEST(SafetensorsHeader, B49UnusualNamesWorkAndStayDistinct) {
  const std::vector<std::string> names = {
      "\xF0\x9F\x98\x80.weight",  // an emoji
      "\xE2\x80\x8F"
      "abc",          // a right-to-left mark
      "caf\xC3\xA9",  // é in one code point and in two
      "cafe\xCC\x81",
      "../../etc/passwd",
      "con",
      "CON",
      "a.weight",
      "A.weight",
      " ",
  };
  SafetensorsBuilder builder;
  for (const std::string& name : names) builder.add(name, {1});
  builder.add("line\\nbreak", {1}).add("\\u001b[31m", {1}).add("", {1});
  const SafetensorsHeader header = parse(builder);
  ASSERT_EQ(header.tensors.size(), names.size() + 3);
  for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(header.tensors[i].name, names[i]);
  EXPECT_EQ(header.tensors[names.size()].name, "line\nbreak");
  EXPECT_EQ(header.tensors[names.size() + 1].name, "\x1b[31m");
}

TEST(SafetensorsHeader, EscapedSurrogatePairsAreOneCharacter) {
  SafetensorsBuilder builder;
  EXPECT_EQ(parse(builder.add("\\ud83d\\ude00", {1})).tensors[0].name, "\xF0\x9F\x98\x80");
}

TEST(SafetensorsHeader, ALengthThatLooksLikeAPickleIsStillRead) {
  // 640 is 80 02 in little-endian bytes, how a pickle of protocol 2 begins.
  for (const size_t length : {0x0280U, 0x0380U, 0x0480U, 0x0580U}) {
    SafetensorsBuilder builder;
    std::string header = builder.add("a", {1}).header();
    header.resize(length, ' ');
    const testing::TempFolder folder;
    testing::write_file(folder / "m.safetensors", testing::file_bytes(header, 4));
    SourceFile identity;
    EXPECT_EQ(
        read_safetensors_header(FileReader(folder / "m.safetensors"), identity).tensors.size(), 1U);
  }
}

TEST(SafetensorsHeader, TheIdentityOfTheFileIsFilledIn) {
  SafetensorsBuilder builder;
  builder.add("a", {2, 3});
  const testing::TempFolder folder;
  testing::write_file(folder / "m.safetensors", builder.bytes());
  const FileReader file(folder / "m.safetensors");
  SourceFile identity;
  read_safetensors_header(file, identity);
  EXPECT_EQ(identity.path, folder / "m.safetensors");
  EXPECT_EQ(identity.size, builder.bytes().size());
  EXPECT_EQ(identity.inode, file.inode());
  EXPECT_EQ(identity.mtime_ns, file.mtime_ns());
  const std::string header = builder.header();
  EXPECT_EQ(identity.header_hash, hash_hex(std::as_bytes(std::span(header))));
}

TEST(SafetensorsHeader, AMillionTensorsAreRead) {
  std::string header = "{" + entry("0", "U8", "0", 0, 0);
  for (int i = 1; i < 1'000'000; ++i) header += "," + entry(std::to_string(i), "U8", "0", 0, 0);
  EXPECT_EQ(parse(header + "}", 0).tensors.size(), 1'000'000U);
}

}  // namespace
}  // namespace arrow_quant
