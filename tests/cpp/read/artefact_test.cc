#include "arrow_quant/artefact.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "arrow_quant/error.h"
#include "io/manifest_hash.h"
#include "support/stored_tensors.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

using testing::affine;
using testing::copied;
using testing::read_file;
using testing::read_tree;
using testing::store;
using testing::TempFolder;
using testing::write_file;
namespace fs = std::filesystem;
using Json = nlohmann::json;

std::vector<QuantizedTensor> tiny_tensors() {
  return {affine("two", {2, 40}, 4, ParamEncoding::kTwoLevel),
          affine("fp", {2, 33}, 2, ParamEncoding::kFp16),
          affine("row", {2, 9}, 8, ParamEncoding::kRow), copied("bias", DType::kF32, {3})};
}

void read_all(const Artefact& artefact) {
  for (size_t i = 0; i < artefact.tensors(0).size(); ++i) artefact.read(0, i);
}

/// Opens, reads everything, verifies; the error, or nothing.
std::optional<ErrorCode> check(const std::string& path, bool verify = true) {
  try {
    const Artefact artefact = Artefact::open(path);
    read_all(artefact);
    if (verify) artefact.verify([] {});
  } catch (const Error& e) {
    EXPECT_STRNE(e.what(), "");
    return e.code();
  }
  return std::nullopt;
}

bool is_damage(const std::optional<ErrorCode>& code) {
  return code == ErrorCode::kValidation || code == ErrorCode::kMetadata;
}

/// Change the manifest and give it the hash that fits.
template <typename Change>
void edit_manifest(const std::string& artefact, Change change) {
  const fs::path path = fs::path(artefact) / "manifest.json";
  Json document = Json::parse(read_file(path));
  change(document);
  document[kManifestHashKey] = manifest_hash(document);
  write_file(path, document.dump(2) + "\n");
}

class DamagedArtefact : public ::testing::Test {
 protected:
  DamagedArtefact() {
    store(out_, tiny_tensors());
    files_ = read_tree(out_);
    EXPECT_EQ(check(out_), std::nullopt);
  }

  void restore() const {
    for (const auto& [name, bytes] : files_) write_file(fs::path(out_) / name, bytes);
  }

  void put_byte(const std::string& name, size_t at, char value) const {
    std::fstream file(fs::path(out_) / name, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(at)).put(value);
    ASSERT_TRUE(file.flush());
  }

  const TempFolder temp_;
  const std::string out_ = temp_ / "out";
  std::map<std::string, std::string> files_;
};

TEST_F(DamagedArtefact, EveryFlippedBitIsFound) {
  size_t silent = 0;
  size_t flips = 0;
  for (const auto& [name, bytes] : files_) {
    for (size_t i = 0; i < bytes.size(); ++i) {
      put_byte(name, i, static_cast<char>(bytes[i] ^ (1 << i % 8)));
      ++flips;
      const auto code = check(out_);
      put_byte(name, i, bytes[i]);
      if (is_damage(code)) continue;
      ++silent;
      ADD_FAILURE() << name << " byte " << i << (code ? ": wrong kind of error" : ": accepted");
    }
  }
  EXPECT_GT(flips, 3000U);
  EXPECT_EQ(silent, 0U);
}

TEST_F(DamagedArtefact, EveryOtherValueOfAByteOfTheManifestIsFound) {
  const std::string name = "manifest.json";
  const std::string& bytes = files_[name];
  for (size_t i = 0; i < bytes.size(); i += 211) {
    for (int value = 0; value < 256; ++value) {
      if (static_cast<char>(value) == bytes[i]) continue;
      put_byte(name, i, static_cast<char>(value));
      ASSERT_TRUE(is_damage(check(out_, false))) << "byte " << i << " value " << value;
    }
    put_byte(name, i, bytes[i]);
  }
}

TEST_F(DamagedArtefact, EveryTruncationIsFoundWhenOpened) {
  for (const auto& [name, bytes] : files_) {
    for (size_t size = bytes.size(); size-- > 0;) {
      fs::resize_file(fs::path(out_) / name, size);
      EXPECT_THROW(Artefact::open(out_), Error) << name << " of " << size << " bytes";
    }
    write_file(fs::path(out_) / name, bytes + '\0');
    EXPECT_THROW(Artefact::open(out_), Error) << name << " with a byte more";
    restore();
  }
}

// A flip in codes, parameters or scales is found by the page checksum, without verify.
TEST_F(DamagedArtefact, AFlipInTheBytesOfATensorIsFoundWhenItIsRead) {
  const std::string& bytes = files_["weights.parquet"];
  for (const QuantizedTensor& tensor : tiny_tensors()) {
    const std::string codes(tensor.chunks[0].codes.begin(), tensor.chunks[0].codes.end());
    const size_t begin = bytes.find(codes);
    ASSERT_NE(begin, std::string::npos);
    for (size_t i = begin; i < begin + codes.size(); ++i) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
      write_file(fs::path(out_) / "weights.parquet", damaged);
      EXPECT_EQ(check(out_, false), ErrorCode::kValidation) << tensor.info.name;
    }
  }
}

TEST_F(DamagedArtefact, AMissingFileIsFoundAndWithoutItsManifestItIsNoArtefact) {
  fs::remove(fs::path(out_) / "weights.parquet");
  EXPECT_EQ(check(out_), ErrorCode::kValidation);
  restore();
  fs::remove(fs::path(out_) / "manifest.json");
  EXPECT_EQ(check(out_), ErrorCode::kModelNotFound);
}

TEST_F(DamagedArtefact, FilesOfAnotherArtefactAreFound) {
  std::vector<QuantizedTensor> tensors = tiny_tensors();
  tensors[0].chunks[0].codes[0] ^= 1;  // the same sizes and the same footer
  store(temp_ / "other", tensors);
  ASSERT_EQ(check(temp_ / "other"), std::nullopt);
  for (const std::string name : {"manifest.json", "weights.parquet"}) {
    write_file(fs::path(out_) / name, read_file(fs::path(temp_ / "other") / name));
    EXPECT_EQ(check(out_), ErrorCode::kValidation) << name;
    restore();
  }
}

TEST_F(DamagedArtefact, PartsInTheWrongOrderAreFound) {
  std::vector<QuantizedTensor> tensors;
  for (const char* name : {"a", "b"}) {
    tensors.push_back(affine(name, {1100, 1024}, 8, ParamEncoding::kRow));
  }
  store(temp_ / "parts", tensors, {.part_size = 1U << 20, .planned_bytes = 2U << 20});
  const fs::path folder = fs::path(temp_ / "parts") / "weights.parquet";
  ASSERT_EQ(testing::names_in(folder).size(), 2U);
  ASSERT_EQ(check(temp_ / "parts"), std::nullopt);
  fs::rename(folder / "part-00000.parquet", folder / "x");
  fs::rename(folder / "part-00001.parquet", folder / "part-00000.parquet");
  fs::rename(folder / "x", folder / "part-00001.parquet");
  EXPECT_EQ(check(temp_ / "parts"), ErrorCode::kValidation);
}

TEST_F(DamagedArtefact, AFileAmongThePartsThatIsNoneIsFound) {
  store(temp_ / "parts", {affine("a", {1100, 1024}, 8, ParamEncoding::kRow)},
        {.part_size = 1U << 20, .planned_bytes = 2U << 20});
  const fs::path folder = fs::path(temp_ / "parts") / "weights.parquet";
  write_file(folder / ".hidden", "other readers ignore it, too");
  EXPECT_EQ(check(temp_ / "parts"), std::nullopt);
  fs::copy_file(folder / "part-00000.parquet", folder / "part-00001.parquet");
  EXPECT_EQ(check(temp_ / "parts"), ErrorCode::kValidation);
}

TEST_F(DamagedArtefact, VerifyFindsTheOneDamagedFileAmongMany) {
  std::vector<QuantizedTensor> tensors;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    tensors.push_back(affine(name, {1100, 1024}, 8, ParamEncoding::kRow));
  }
  store(temp_ / "parts", tensors, {.part_size = 1U << 20, .planned_bytes = 2U << 20});
  const Artefact artefact = Artefact::open(temp_ / "parts");
  size_t polls = 0;
  artefact.verify([&] { ++polls; });
  EXPECT_GT(polls, 0U);
  for (const FileRecord& file : artefact.manifest().files) {
    const fs::path path = fs::path(temp_ / "parts") / file.path;
    const std::string bytes = read_file(path);
    std::string damaged = bytes;
    damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
    write_file(path, damaged);
    try {
      artefact.verify([] {});
      ADD_FAILURE() << file.path << ": accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kValidation);
      EXPECT_EQ(e.path(), path.string());
    }
    write_file(path, bytes);
  }
}

TEST_F(DamagedArtefact, FilesThatTheManifestDoesNotNameAreIgnored) {
  write_file(fs::path(out_) / "notes.txt", "mine");
  write_file(fs::path(out_) / ".gitattributes", "mine");
  EXPECT_EQ(check(out_), std::nullopt);
}

TEST_F(DamagedArtefact, ANewerFormatIsRefusedWithAdvice) {
  edit_manifest(out_, [](Json& m) { m["format_version"] = 2; });
  try {
    Artefact::open(out_);
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kValidation);
    EXPECT_NE(e.hint().find("Upgrade"), std::string::npos) << e.what();
  }
}

TEST_F(DamagedArtefact, AManifestThatDoesNotFitIsRefusedEvenWithTheRightHash) {
  using Change = void (*)(Json&);
  const std::vector<std::pair<const char*, Change>> changes = {
      {"another tool", [](Json& m) { m["format"] = "gguf"; }},
      {"no version", [](Json& m) { m.erase("format_version"); }},
      {"version as text", [](Json& m) { m["format_version"] = "1"; }},
      {"version 0", [](Json& m) { m["format_version"] = 0; }},
      {"negative version", [](Json& m) { m["format_version"] = -1; }},
      {"no files", [](Json& m) { m["files"] = Json::array(); }},
      {"files of the wrong type", [](Json& m) { m["files"] = 3; }},
      {"no components", [](Json& m) { m["components"] = Json::array(); }},
      {"a file twice", [](Json& m) { m["files"].push_back(m["files"][0]); }},
      {"more tensors", [](Json& m) { m["components"][0]["tensors"] = 5; }},
      {"fewer tensors", [](Json& m) { m["components"][0]["tensors"] = 3; }},
      {"no parts", [](Json& m) { m["components"][0]["parts"] = Json::array(); }},
      {"a part that is no file", [](Json& m) { m["components"][0]["parts"][0] = "x"; }},
      {"a part twice", [](Json& m) { m["components"][0]["parts"].push_back("weights.parquet"); }},
      {"another size", [](Json& m) { m["files"][0]["size"] = 1; }},
      {"another hash", [](Json& m) { m["files"][0]["hash"] = std::string(32, '0'); }},
      {"another footer", [](Json& m) { m["files"][0]["footer_hash"] = std::string(32, '0'); }},
      {"no footer hash", [](Json& m) { m["files"][0].erase("footer_hash"); }},
      {"a path outside", [](Json& m) { m["files"][0]["path"] = "../weights.parquet"; }},
      {"an absolute path", [](Json& m) { m["files"][0]["path"] = "/weights.parquet"; }},
      {"a path with a dot", [](Json& m) { m["files"][0]["path"] = "./weights.parquet"; }},
  };
  for (const auto& [what, change] : changes) {
    edit_manifest(out_, change);
    EXPECT_EQ(check(out_), ErrorCode::kValidation) << what;
    restore();
  }
}

TEST_F(DamagedArtefact, AManifestInAnotherLayoutIsRefused) {
  const std::string text = files_["manifest.json"];
  write_file(fs::path(out_) / "manifest.json", Json::parse(text).dump());
  EXPECT_EQ(check(out_), ErrorCode::kValidation);
  write_file(fs::path(out_) / "manifest.json", "{\"format\": \"x\", " + text.substr(1));
  EXPECT_EQ(check(out_), ErrorCode::kMetadata) << "a key twice";
}

// Tables that the hashes call sound and that still are wrong: a faulty writer, or a forger.
TEST(Artefact, ChunksThatDoNotCoverTheTensorAreRefused) {
  const TempFolder temp;
  const QuantizedTensor whole = affine("w", {9, 40}, 4, ParamEncoding::kTwoLevel, 3);
  using Change = void (*)(QuantizedTensor&);
  const std::vector<std::pair<const char*, Change>> changes = {
      {"first missing", [](QuantizedTensor& t) { t.chunks.erase(t.chunks.begin()); }},
      {"middle missing", [](QuantizedTensor& t) { t.chunks.erase(t.chunks.begin() + 1); }},
      {"last missing", [](QuantizedTensor& t) { t.chunks.pop_back(); }},
      {"swapped", [](QuantizedTensor& t) { std::swap(t.chunks[1], t.chunks[2]); }},
      {"swapped with the first", [](QuantizedTensor& t) { std::swap(t.chunks[0], t.chunks[1]); }},
      {"twice", [](QuantizedTensor& t) { t.chunks.push_back(t.chunks[2]); }},
      {"first twice", [](QuantizedTensor& t) { t.chunks.push_back(t.chunks[0]); }},
      {"all named first", [](QuantizedTensor& t) { t.chunks[1].chunk = t.chunks[2].chunk = 0; }},
      {"begins late", [](QuantizedTensor& t) { t.chunks[0].row_begin = 1; }},
      {"beyond the end", [](QuantizedTensor& t) { t.chunks[2].row_begin = 10; }},
      {"backwards", [](QuantizedTensor& t) { t.chunks[1].row_begin = 7; }},
      {"overlapping", [](QuantizedTensor& t) { t.chunks[1].row_begin = 2; }},
      {"huge", [](QuantizedTensor& t) { t.chunks[1].row_begin = ~uint64_t{0}; }},
      {"codes too short", [](QuantizedTensor& t) { t.chunks[1].codes.pop_back(); }},
      {"codes too long", [](QuantizedTensor& t) { t.chunks[1].codes.push_back(0); }},
      {"params too short", [](QuantizedTensor& t) { t.chunks[1].params.pop_back(); }},
      {"a scale less", [](QuantizedTensor& t) { t.chunks[1].row_scales.pop_back(); }},
      {"no scales", [](QuantizedTensor& t) { t.chunks[1].row_scales.clear(); }},
      {"a NaN scale", [](QuantizedTensor& t) { t.chunks[1].row_scales[0] = 0x7E00; }},
      {"an infinite scale", [](QuantizedTensor& t) { t.chunks[1].row_scales[0] = 0x7C00; }},
      {"tensor scale 0", [](QuantizedTensor& t) { t.chunks[1].tensor_scale = 0; }},
      {"tensor scale -1", [](QuantizedTensor& t) { t.chunks[0].tensor_scale = -1; }},
      {"tensor scale NaN", [](QuantizedTensor& t) { t.chunks[0].tensor_scale = NAN; }},
      {"tensor scale Inf", [](QuantizedTensor& t) { t.chunks[0].tensor_scale = INFINITY; }},
      {"group size 0", [](QuantizedTensor& t) { t.info.spec.group_size = 0; }},
      {"group size 12", [](QuantizedTensor& t) { t.info.spec.group_size = 12; }},
      {"group size 8", [](QuantizedTensor& t) { t.info.spec.group_size = 8; }},
      {"3 bits", [](QuantizedTensor& t) { t.info.spec.bit_width = 3; }},
      {"8 bits", [](QuantizedTensor& t) { t.info.spec.bit_width = 8; }},
      {"another shape", [](QuantizedTensor& t) { t.info.shape = {9, 41}; }},
      {"a scalar", [](QuantizedTensor& t) { t.info.shape = {}; }},
      {"a huge shape", [](QuantizedTensor& t) { t.info.shape = {1U << 30, 1U << 30, 1U << 30}; }},
      {"rank 9", [](QuantizedTensor& t) { t.info.shape = {9, 1, 1, 1, 1, 1, 1, 1, 40}; }},
  };
  store(temp / "out", {whole});
  ASSERT_EQ(check(temp / "out"), std::nullopt);
  for (const auto& [what, change] : changes) {
    QuantizedTensor tensor = whole;
    change(tensor);
    // A sound tensor before and after: the wrong one must not take rows from them.
    store(temp / "out", {copied("a", DType::kF32, {2}), tensor, copied("z", DType::kF32, {2})});
    EXPECT_EQ(check(temp / "out"), ErrorCode::kValidation) << what;
  }
}

TEST(Artefact, DimensionsOfRowsAreStoredAndReadBack) {
  const TempFolder temp;
  QuantizedTensor stack = affine("experts.down_proj", {6, 40}, 4, ParamEncoding::kTwoLevel, 4);
  stack.info.shape = {2, 3, 40};
  stack.info.row_dimensions = 2;
  store(temp / "out", {stack, affine("conv", {6, 4, 3}, 8, ParamEncoding::kRow)});
  const Artefact artefact = Artefact::open(temp / "out");
  const QuantizedTensorInfo& info = artefact.tensors(0)[0];
  EXPECT_EQ(info.shape, (std::vector<uint64_t>{2, 3, 40}));
  EXPECT_EQ(info.row_dimensions, 2);
  EXPECT_EQ(info.rows(), 6U);
  EXPECT_EQ(artefact.read(0, 0).chunks[1].codes, stack.chunks[1].codes);
  EXPECT_EQ(artefact.tensors(0)[1].row_dimensions, 1);
}

TEST(Artefact, AnInfiniteOffsetIsRefused) {
  const TempFolder temp;
  QuantizedTensor tensor = affine("w", {2, 40}, 4, ParamEncoding::kFp16);
  tensor.chunks[0].params[2] = 0;
  tensor.chunks[0].params[3] = 0xFC;
  store(temp / "out", {tensor});
  EXPECT_EQ(check(temp / "out"), ErrorCode::kValidation);
}

TEST(Artefact, ACopyOfTheWrongLengthIsRefused) {
  const TempFolder temp;
  for (const int bytes : {0, 11, 13}) {
    QuantizedTensor tensor = copied("b", DType::kF32, {3});
    tensor.chunks[0].codes.resize(static_cast<size_t>(bytes));
    store(temp / "out", {tensor});
    EXPECT_EQ(check(temp / "out"), ErrorCode::kValidation) << bytes;
  }
}

TEST(Artefact, TwoTensorsOfOneNameAreRefused) {
  const TempFolder temp;
  store(temp / "out", {copied("b", DType::kF32, {3}), copied("b", DType::kF32, {3})});
  EXPECT_EQ(check(temp / "out"), ErrorCode::kValidation);
}

TEST(Artefact, PathsInsideOpenItAndOthersAreNotFound) {
  const TempFolder temp;
  store(temp / "out", tiny_tensors(), {.component = "unet"});
  for (const char* path :
       {"out", "out/", "out/unet", "out/unet/weights.parquet", "out/manifest.json"}) {
    EXPECT_EQ(check(temp / path), std::nullopt) << path;
  }
  write_file(temp / "model/config.json", "{}");
  for (const char* path : {"absent", "out/absent", "model", ""}) {
    EXPECT_EQ(check(temp / path), ErrorCode::kModelNotFound) << path;
  }
  EXPECT_EQ(check(temp / std::string("out\0.txt", 8)), ErrorCode::kModelNotFound);
}

TEST(Artefact, ManyThreadsReadTheSameBytes) {
  const TempFolder temp;
  std::vector<QuantizedTensor> tensors;
  for (int i = 0; i < 40; ++i) {  // small ones share row groups, every tenth has its own
    const uint64_t rows = i % 10 == 0 ? 1100 : 30;
    tensors.push_back(affine("t" + std::to_string(i), {rows, 1024}, 8, ParamEncoding::kRow, 700));
  }
  store(temp / "out", tensors, {.part_size = 2U << 20, .planned_bytes = 9U << 20});
  const Artefact artefact = Artefact::open(temp / "out");
  std::atomic<size_t> wrong = 0;
  const auto read_every = [&](size_t first) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const size_t number = (first + 7 * i) % tensors.size();
      const QuantizedTensor read = artefact.read(0, number);
      for (size_t k = 0; k < read.chunks.size(); ++k) {
        wrong += read.chunks[k].codes == tensors[number].chunks[k].codes ? 0 : 1;
      }
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 4; ++i) threads.emplace_back(read_every, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0U);
}

TEST(Artefact, AnExceptionOfAVisitorPassesUnchanged) {
  const TempFolder temp;
  store(temp / "out", tiny_tensors());
  const Artefact artefact = Artefact::open(temp / "out");
  struct Stop : std::runtime_error {
    Stop() : std::runtime_error("stop") {}
  };
  EXPECT_THROW(artefact.visit_chunk(0, 0, 0, [](const Artefact::ChunkView&) { throw Stop(); }),
               Stop);
  EXPECT_THROW(artefact.verify([] { throw Stop(); }), Stop);
}

TEST(Artefact, QualityOfATensorInChunksIsTheMeanOverItsRows) {
  const TempFolder temp;
  QuantizedTensor tensor = affine("w", {4, 40}, 4, ParamEncoding::kTwoLevel, 3);
  tensor.chunks[0].error = {.ww = 1, .vv = 1, .wv = 0.9, .err = 0.2, .count = 120};
  tensor.chunks[1].error = {.ww = 1, .vv = 1, .wv = 0.5, .err = 0.6, .count = 40};
  store(temp / "out", {tensor});
  const Artefact artefact = Artefact::open(temp / "out");
  EXPECT_NEAR(artefact.tensors(0)[0].cosine, 0.8, 1e-6);
  EXPECT_NEAR(artefact.tensors(0)[0].nmse, 0.3, 1e-6);
}

}  // namespace
}  // namespace arrow_quant
