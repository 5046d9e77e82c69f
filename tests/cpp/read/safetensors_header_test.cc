// One test for each numbered fault of a single safetensors file: what is refused, and with which
// words. What is accepted is in safetensors_valid_test.cc.
#include "read/safetensors_header.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "read/safetensors_builder.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

using testing::entry;
using testing::expect_error;
using testing::file_bytes;
using testing::length_prefix;

constexpr ErrorCode kMetadata = ErrorCode::kMetadata;

// The header `json` of a file with `data_bytes` of data.
void refuse(const std::string& json, std::initializer_list<std::string> words,
            uint64_t data_bytes = 4, ErrorCode code = kMetadata) {
  expect_error(code, words,
               [&] { parse_safetensors_header(json, 8 + json.size() + data_bytes, "m.st"); });
}

// A whole file, through the file system.
void refuse_file(const std::string& bytes, std::initializer_list<std::string> words) {
  const testing::TempFolder folder;
  testing::write_file(folder / "model.safetensors", bytes);
  const FileReader file(folder / "model.safetensors");
  SourceFile identity;
  expect_error(kMetadata, words, [&] { read_safetensors_header(file, identity); });
}

std::string tensor_with(const std::string& fields) { return "{\"a\":{" + fields + "}}"; }

constexpr const char* kDtype = "\"dtype\":\"F32\"";
constexpr const char* kShape = "\"shape\":[1]";
constexpr const char* kOffsets = "\"data_offsets\":[0,4]";

std::string with_shape(const std::string& shape) {
  return tensor_with(std::string(kDtype) + ",\"shape\":" + shape + "," + kOffsets);
}

std::string with_offsets(const std::string& offsets) {
  return tensor_with(std::string(kDtype) + "," + kShape + ",\"data_offsets\":" + offsets);
}

TEST(SafetensorsFaults, A2AnEmptyFileIsRefused) {
  refuse_file("", {"at least 8 bytes", "found 0", "incomplete download"});
}

TEST(SafetensorsFaults, A3OneToSevenBytesAreTooFewForTheLength) {
  for (size_t size = 1; size < 8; ++size) {
    refuse_file(std::string(size, '\1'), {"at least 8 bytes", "found " + std::to_string(size)});
  }
}

TEST(SafetensorsFaults, A4AHeaderOfNoOrOneByteHoldsNoTensors) {
  refuse_file(length_prefix(0), {"a header of 0 bytes"});
  refuse_file(length_prefix(1) + "{", {"a header of 1 bytes"});
}

TEST(SafetensorsFaults, A5AHeaderLongerThanTheFileIsAnIncompleteDownload) {
  refuse_file(length_prefix(1000) + "{\"a\"", {"needs 1000 bytes", "incomplete download"});
}

TEST(SafetensorsFaults, A6HugeLengthsAllocateNothing) {
  refuse_file(length_prefix(1ULL << 63) + "{}", {"9223372036854775808 bytes", "at most 100 MB"});
  refuse_file(length_prefix(~0ULL) + "{}", {"18446744073709551615 bytes", "at most 100 MB"});
}

TEST(SafetensorsFaults, A7OneByteMoreThan100MBIsTooLong) {
  refuse_file(length_prefix(100'000'001) + "{}", {"100000001 bytes", "at most 100 MB"});
}

TEST(SafetensorsFaults, A8AHeaderThatIsNotUtf8IsRefusedWithTheBytePosition) {
  refuse("{\"a\xff\":{}}", {"not valid JSON", "byte 4", "UTF-8"});
  refuse("{\"\xc0\x80\":{}}", {"UTF-8"});          // an overlong NUL
  refuse("{\"\xed\xa0\x80\":{}}", {"UTF-8"});      // a surrogate
  refuse("{\"\xf4\x90\x80\x80\":{}}", {"UTF-8"});  // beyond U+10FFFF
}

TEST(SafetensorsFaults, A8TheMessageDoesNotRepeatALongNameOrItsBytes) {
  refuse("{\"" + std::string(1'000'000, 'x') + "\xff\":{}}", {"byte 1000003"});
  try {
    parse_safetensors_header("{\"secret\xff\":{}}", 100, "m.st");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\xff'), std::string::npos);
  }
}

TEST(SafetensorsFaults, A9WhatIsNotJsonIsRefused) {
  refuse("{\"a\":}", {"not valid JSON", "byte 6"});
  refuse("{\"a\":{\"dtype\":\"F32\"", {"does not end with '}'"});
  refuse("{" + entry("a", "F32", "1", 0, 4) + ",\"b\"}", {"not valid JSON"});
  refuse("{" + entry("a", "F32", "1", 0, 4) + "}}", {"not valid JSON"});
  refuse("{" + entry("a", "F32", "1", 0, 4) + "} {}", {"not valid JSON"});
  refuse("{" + entry("a", "F32", "1", 0, 4) + "}x", {"does not end with '}'"});
  refuse("{'a':{}}", {"not valid JSON"});
  refuse("{" + entry("a", "F32", "1", 0, 4) + ",}", {"not valid JSON"});
  refuse("{/*c*/" + entry("a", "F32", "1", 0, 4) + "}", {"not valid JSON"});
}

TEST(SafetensorsFaults, A9PaddingIsSpacesOnly) {
  const std::string header = "{" + entry("a", "F32", "1", 0, 4) + "}";
  refuse(header + std::string(3, '\0'), {"does not end with '}' and spaces"});
  refuse(header + "\n", {"does not end with '}' and spaces"});
}

TEST(SafetensorsFaults, A9NothingHidesBehindANul) {
  const std::string header = "{" + entry("a", "F32", "1", 0, 4) + "}";
  refuse(header + std::string(1, '\0') + "<script>}", {"not valid JSON", "NUL"});
}

TEST(SafetensorsFaults, A10TheHeaderStartsWithABrace) {
  refuse("[]", {"does not start with '{'"});
  refuse(" {}", {"does not start with '{'"});
  refuse("\xEF\xBB\xBF{}", {"does not start with '{'"});
  refuse("", {"does not start with '{'"});
  refuse("        ", {"does not start with '{'"});
}

TEST(SafetensorsFaults, A11AMillionLevelsOverflowNoStack) {
  const std::string open(1'000'000, '[');
  refuse("{\"a\":" + open + "}", {"expected the entry to be an object, found an array"});
  refuse("{\"a\":{\"shape\":" + open + "}}", {"expected dimensions to be whole numbers"});
  std::string objects;
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  refuse(objects + "}", {"unknown field 'a'"});
}

TEST(SafetensorsFaults, A12ATensorNameMayNotOccurTwice) {
  refuse("{" + entry("a", "F32", "1", 0, 4) + "," + entry("a", "F32", "1", 4, 8) + "}",
         {"'a'", "duplicate tensor name"}, 8);
  refuse("{" + entry("a", "F32", "1", 0, 4) + "," + entry("\\u0061", "F32", "1", 4, 8) + "}",
         {"duplicate tensor name"}, 8);
}

TEST(SafetensorsFaults, A13AFieldMayNotOccurTwice) {
  const std::string once = std::string(kDtype) + "," + kShape + "," + kOffsets;
  refuse(tensor_with(once + "," + kDtype), {"tensor 'a'", "duplicate field 'dtype'"});
  refuse(tensor_with(once + "," + kShape), {"duplicate field 'shape'"});
  refuse(tensor_with(once + "," + kOffsets), {"duplicate field 'data_offsets'"});
  refuse("{\"__metadata__\":{},\"__metadata__\":{}," + entry("a", "F32", "1", 0, 4) + "}",
         {"duplicate key '__metadata__'"});
  refuse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}," + entry("a", "F32", "1", 0, 4) + "}",
         {"duplicate key 'k' in __metadata__"});
}

TEST(SafetensorsFaults, A14EveryFieldIsNeededAndNoOtherIsKnown) {
  const auto two = [](const char* a, const char* b) { return std::string(a) + "," + b; };
  refuse(tensor_with(two(kShape, kOffsets)), {"tensor 'a'", "missing field 'dtype'"});
  refuse(tensor_with(two(kDtype, kOffsets)), {"missing field 'shape'"});
  refuse(tensor_with(two(kDtype, kShape)), {"missing field 'data_offsets'"});
  refuse(tensor_with(two(kDtype, kShape) + "," + kOffsets + ",\"extra\":1"),
         {"unknown field 'extra'"});
}

TEST(SafetensorsFaults, A15WrongTypesAreRefused) {
  refuse(with_shape("\"4\""), {"expected shape to be an array, found a string"});
  refuse(with_shape("4"), {"expected shape to be an array, found a number"});
  refuse(with_shape("null"), {"expected shape to be an array, found null"});
  refuse(with_shape("[4.0]"), {"expected dimensions to be whole numbers, found the number 4.0"});
  refuse(with_shape("[-1]"), {"found the negative number -1"});
  refuse(with_shape("[1e3]"), {"found the number 1e3"});
  refuse(with_shape("[null]"), {"found null"});
  refuse(with_shape("[\"4\"]"), {"found a string"});
  refuse(with_shape("[[4]]"), {"found an array"});
  refuse(with_shape("[true]"), {"found a boolean"});
  refuse(with_shape("[18446744073709551616]"), {"found the number 18446744073709551616"});
  refuse(with_shape("[" + std::string(100'000, '9') + "]"), {"number overflow"});
  refuse(with_shape("[0." + std::string(100'000, '9') + "]"), {"found the number 0.999"});
  refuse(with_offsets("[4]"), {"expected 2 data_offsets, found 1"});
  refuse(with_offsets("[]"), {"expected 2 data_offsets, found 0"});
  refuse(with_offsets("[0,4,8]"), {"expected 2 data_offsets, found more"});
  refuse(with_offsets("{}"), {"expected data_offsets to be an array, found an object"});
  refuse(with_offsets("[0,4.0]"), {"data_offsets to be whole numbers"});
  refuse("{\"a\":4}", {"expected the entry to be an object, found a number"});
  refuse(tensor_with("\"dtype\":4"), {"expected dtype to be a string"});
}

TEST(SafetensorsFaults, A16UnknownDtypesAreRefused) {
  refuse("{" + entry("a", "F7", "1", 0, 4) + "}", {"tensor 'a'", "unknown dtype 'F7'"});
  refuse("{" + entry("a", "f32", "1", 0, 4) + "}", {"unknown dtype 'f32'"});
}

TEST(SafetensorsFaults, A17AProductThatWrapsToZeroIsNotEmpty) {
  refuse("{" + entry("a", "F32", "4294967296,4294967296", 0, 0) + "}", {"overflows"}, 0);
  refuse("{" + entry("a", "U8", "65536,65536,65536,65536", 0, 0) + "}", {"overflows"}, 0);
}

TEST(SafetensorsFaults, A18AProductThatWrapsToASmallValueIsRefused) {
  // (2^32 + 1) * 2^32 wraps to 2^32 elements; 2^47 * 2^14 * 8 bytes wraps to 0.
  refuse("{" + entry("a", "U8", "4294967297,4294967296", 0, 4) + "}", {"overflows"});
  refuse("{" + entry("a", "F64", "140737488355328,16384", 0, 0) + "}", {"overflows"}, 0);
}

TEST(SafetensorsFaults, A19ADimensionBeyondTheLimitIsRefusedEvenBesideZero) {
  refuse("{" + entry("a", "F32", "0,9223372036854775808", 0, 0) + "}",
         {"a dimension of 9223372036854775808", "2^48"}, 0);
}

TEST(SafetensorsFaults, A20AnEndBeforeTheBeginIsRefused) {
  refuse(with_offsets("[4,0]"), {"end at 0", "before their begin 4"});
}

TEST(SafetensorsFaults, A21AnEndPastTheFileIsAnIncompleteDownload) {
  refuse("{" + entry("a", "F32", "2", 0, 8) + "}",
         {"end at 8", "4 bytes of data", "incomplete download"});
}

TEST(SafetensorsFaults, A22ABeginNearTwoToThe64IsRefused) {
  refuse("{" + entry("a", "F32", "1", 18446744073709551608ULL, 18446744073709551612ULL) + "}",
         {"expected data_offsets to begin at 0, found 18446744073709551608"});
  refuse("{" + entry("a", "U8", "4", 0, 4) + "," +
             entry("b", "U8", "7", 18446744073709551608ULL, 18446744073709551615ULL) + "}",
         {"tensor 'b'", "expected data_offsets to begin at 4"});
}

TEST(SafetensorsFaults, A23ASizeThatIsNotShapeTimesDtypeIsAShapeMismatch) {
  refuse("{" + entry("a", "F32", "2", 0, 4) + "}", {"tensor 'a'", "need 8 bytes", "span 4"}, 4,
         ErrorCode::kShapeMismatch);
  refuse("{" + entry("a", "F32", "0", 0, 4) + "}", {"need 0 bytes", "span 4"}, 4,
         ErrorCode::kShapeMismatch);
}

TEST(SafetensorsFaults, A24OverlapsHolesAndTrailingBytesAreRefused) {
  const std::string first = entry("a", "U8", "4", 0, 4);
  refuse("{" + first + "," + entry("b", "U8", "4", 2, 6) + "}", {"'b'", "begin at 4, found 2"}, 6);
  refuse("{" + first + "," + entry("b", "U8", "4", 6, 10) + "}", {"begin at 4, found 6"}, 10);
  refuse("{" + entry("a", "U8", "4", 2, 6) + "}", {"begin at 0, found 2"}, 6);
  refuse("{" + first + "}", {"end at byte 4 of the data, the file has 5"}, 5);
}

TEST(SafetensorsFaults, A25TenTensorsMayNotShareTheirBytes) {
  std::string entries = entry("t0", "U8", "4", 0, 4);
  for (int i = 1; i < 10; ++i) entries += "," + entry("t" + std::to_string(i), "U8", "4", 0, 4);
  refuse("{" + entries + "}", {"begin at 4, found 0", "without holes or overlaps"});
}

TEST(SafetensorsFaults, A27AnEmptyTensorInsideAnotherIsRefused) {
  refuse("{" + entry("a", "U8", "4", 0, 4) + "," + entry("b", "U8", "0", 2, 2) + "}",
         {"tensor 'b'", "begin at 4, found 2"});
}

TEST(SafetensorsFaults, A28MetadataValuesAreStrings) {
  const std::string tensor = entry("a", "U8", "4", 0, 4);
  for (const char* value : {"1", "{}", "null", "[\"x\"]", "true"}) {
    refuse("{\"__metadata__\":{\"k\":" + std::string(value) + "}," + tensor + "}",
           {"__metadata__ values to be strings"});
  }
  refuse("{\"__metadata__\":\"x\"," + tensor + "}", {"expected __metadata__ to be an object"});
  const std::string huge((16U << 20) + 1, 'x');
  refuse("{\"__metadata__\":{\"k\":\"" + huge + "\"}," + tensor + "}", {"exceeds 16 MiB"});
}

TEST(SafetensorsFaults, A29AModelHasTensors) {
  refuse("{}", {"model has no tensors"}, 0);
  refuse("{\"__metadata__\":{\"format\":\"pt\"}}", {"model has no tensors"}, 0);
}

TEST(SafetensorsFaults, A30SubByteElementsMustFillWholeBytes) {
  refuse("{" + entry("a", "F4", "3", 0, 1) + "}", {"does not fill whole bytes"}, 1);
  refuse("{" + entry("a", "F6_E2M3", "3", 0, 2) + "}", {"does not fill whole bytes"}, 2);
}

TEST(SafetensorsFaults, A32AMillionAndOneTensorsFailFast) {
  std::string header = "{";
  header.reserve(70'000'000);
  for (int i = 0; i <= 1'000'000; ++i) {
    if (i != 0) header += ',';
    header += entry(std::to_string(i), "U8", "0", 0, 0);
  }
  header += '}';
  const auto start = std::chrono::steady_clock::now();
  refuse(header, {"more than 1,000,000 tensors"}, 0);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 10.0);  // about 0.5 s; sanitizers are slower
}

TEST(SafetensorsFaults, A37OtherFormatsAreNamed) {
  const std::string rest(100, '\0');
  refuse_file("PK\x03\x04" + rest, {"looks like a zip archive"});
  refuse_file("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46" + rest, {"looks like a pickle"});
  refuse_file("GGUF" + rest, {"looks like a GGUF file"});
  refuse_file("PAR1" + rest, {"looks like a Parquet file"});
  refuse_file("<!DOCTYPE html><html>", {"looks like an HTML page"});
  refuse_file("<HTML><body>404</body>", {"looks like an HTML page"});
  refuse_file("{\"error\": \"Repository not found\"}", {"looks like JSON text"});
  refuse_file("version https://git-lfs.github.com/spec/v1\n", {"git-lfs pointer", "git lfs pull"});
}

TEST(SafetensorsFaults, B48ANameOfAMegabyteIsRefused) {
  refuse("{" + entry(std::string(1'000'000, 'n'), "U8", "4", 0, 4) + "}",
         {"a tensor name of 1000000 bytes", "at most 4096"});
}

TEST(SafetensorsFaults, B50LoneSurrogatesAndNulInNamesAreRefused) {
  refuse("{" + entry("\\ud800", "U8", "4", 0, 4) + "}", {"not valid JSON", "surrogate"});
  refuse("{" + entry("a\\u0000b", "U8", "4", 0, 4) + "}", {"NUL"});
  refuse("{" + entry(std::string("a\0b", 3), "U8", "4", 0, 4) + "}", {"not valid JSON"});
}

TEST(SafetensorsFaults, C59MoreThanEightDimensionsAreRefused) {
  refuse(with_shape("[1,1,1,1,1,1,1,1,1]"), {"more than 8 dimensions"});
}

TEST(SafetensorsFaults, AHeaderLongerThanItsFileIsRefusedByTheParserToo) {
  const std::string header = "{" + entry("a", "U8", "0", 0, 0) + "}";
  expect_error(kMetadata, {"longer than the file"},
               [&] { parse_safetensors_header(header, header.size(), "m.st"); });
}

}  // namespace
}  // namespace arrow_quant
