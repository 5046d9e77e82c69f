// Paths and folders that are no model, or a damaged one: which error, and what it says to do.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <string>

#include "read/model_directory.h"
#include "read/safetensors_builder.h"
#include "read/tensor_reader.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using testing::SafetensorsBuilder;
using testing::TempFolder;
using testing::write_file;

constexpr ErrorCode kNotFound = ErrorCode::kModelNotFound;
constexpr ErrorCode kMetadata = ErrorCode::kMetadata;

std::string model_bytes(const std::string& tensor = "a.weight") {
  return SafetensorsBuilder().add(tensor, {4, 8}).bytes();
}

void refuse(const std::string& path, ErrorCode code, std::initializer_list<std::string> words) {
  testing::expect_error(code, words, [&] { open_model(path); });
}

TEST(RenamedTensors, NoTwoGetOneNameAndSomeAreLeft) {
  const TempFolder folder;
  const std::string path = folder / "m.safetensors";
  write_file(path, SafetensorsBuilder().add("a", {4, 8}).add("b", {4}).bytes());
  testing::expect_error(kMetadata, {"two tensors get this name", "b"},
                        [&] { open_model(path, {{"", {{"a", "b"}}}}); });
  testing::expect_error(kMetadata, {"no tensor is left"},
                        [&] { open_model(path, {{"", {{"a", ""}, {"b", ""}}}}); });
}

class ModelFaults : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& bytes) {
    write_file(folder_ / name, bytes);
  }
  void write_index(const std::string& weight_map) {
    write("model.safetensors.index.json", "{\"weight_map\":{" + weight_map + "}}");
  }
  void refuse_folder(ErrorCode code, std::initializer_list<std::string> words) {
    refuse(folder_.path().string(), code, words);
  }

  TempFolder folder_;
};

TEST_F(ModelFaults, A1AMissingPathIsNotFound) {
  refuse(folder_ / "nothing-like-it", kNotFound,
         {"no such file or directory", "Pass a model folder"});
  refuse("", kNotFound, {"no such file or directory"});
  refuse("/no/such/place", kNotFound, {"no such file or directory"});
}

TEST_F(ModelFaults, A1AMisspelledPathNamesTheNearest) {
  write("stable-diffusion/model.safetensors", model_bytes());
  refuse(folder_ / "stable-difusion", kNotFound, {"Did you mean 'stable-diffusion'?"});
  refuse(folder_ / "stable-difusion/", kNotFound, {"Did you mean 'stable-diffusion'?"});
}

TEST_F(ModelFaults, A29AFileWithoutTensorsIsRefused) {
  write("model.safetensors", testing::file_bytes("{}"));
  refuse_folder(kMetadata, {"model.safetensors", "model has no tensors"});
}

TEST_F(ModelFaults, A34AFileThatChangedAfterItsHeaderWasReadIsRefused) {
  write("model.safetensors", model_bytes());
  const ModelDirectory model = open_model(folder_.path().string());
  const TensorReader reader(model.components.at(0));
  std::array<std::byte, 8> bytes{};
  reader.read(model.components[0].tensors[0], 120, bytes);
  reader.check_unchanged();
  write("new.safetensors", model_bytes());
  fs::rename(folder_ / "new.safetensors", folder_ / "model.safetensors");
  testing::expect_error(kMetadata, {"changed while it was read"},
                        [&] { reader.check_unchanged(); });
  testing::expect_error(kMetadata, {"changed since its header was read"},
                        [&] { TensorReader again(model.components[0]); });
}

TEST_F(ModelFaults, A33AFileThatShrinksIsRefused) {
  write("model.safetensors", model_bytes());
  const ModelDirectory model = open_model(folder_.path().string());
  const TensorReader reader(model.components.at(0));
  fs::resize_file(folder_ / "model.safetensors", model_bytes().size() - 1);
  std::array<std::byte, 128> bytes{};
  testing::expect_error(kMetadata, {"the file ends at", "changed while"},
                        [&] { reader.read(model.components[0].tensors[0], 0, bytes); });
}

TEST_F(ModelFaults, A35WhatIsNoRegularFileIsRefusedWithoutWaiting) {
  ASSERT_EQ(::mkfifo((folder_ / "model.safetensors").c_str(), 0600), 0);
  refuse(folder_ / "model.safetensors", kMetadata, {"found a FIFO"});
  refuse_folder(kMetadata, {"found a FIFO"});
  refuse("/dev/zero", kMetadata, {"found a device"});
}

TEST_F(ModelFaults, A35AFolderNamedLikeAFileIsRefused) {
  fs::create_directory(folder_ / "model.safetensors");
  refuse_folder(kMetadata, {"found a directory"});
}

TEST_F(ModelFaults, A35AnEmptyFolderSaysWhatWasLookedFor) {
  refuse_folder(kNotFound, {"no model in this folder", "model_index.json"});
}

TEST_F(ModelFaults, AFolderOfModelsNamesThem) {
  write("sd15/unet/model.safetensors", model_bytes());
  write("sd15/model_index.json", "{}");
  write("dit/model.safetensors", model_bytes());
  write("docs/readme.txt", "x");
  refuse_folder(kNotFound, {"Models lie in its subfolders: dit, sd15."});
}

TEST_F(ModelFaults, PicklesAreNeverReadAndTheHintSaysWhatToDo) {
  write("pytorch_model.bin", "\x80\x02");
  write("config.json", "{}");
  refuse_folder(kNotFound, {"no model", "Found pytorch_model.bin", "safe_serialization=True"});
  refuse(folder_ / "pytorch_model.bin", kNotFound, {"a torch pickle is not read"});
  write("model.safetensors", "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20");
  refuse(folder_ / "model.safetensors", kMetadata, {"looks like a pickle"});
}

TEST_F(ModelFaults, SeveralWeightFilesWithoutAnIndexAreNotGuessedAt) {
  write("one.safetensors", model_bytes());
  write("two.safetensors", model_bytes());
  refuse_folder(kNotFound, {"several weight files: one.safetensors, two.safetensors"});
}

TEST_F(ModelFaults, B38ShardsWithoutAnIndexAreRefused) {
  write("model-00001-of-00002.safetensors", model_bytes("a"));
  write("model-00002-of-00002.safetensors", model_bytes("b"));
  refuse_folder(kNotFound, {"several shards", "index.json", "Download the index"});
}

TEST_F(ModelFaults, B39AllMissingShardsAreListed) {
  write("m1.safetensors", model_bytes("a"));
  write_index(R"("a":"m1.safetensors","b":"m2.safetensors","c":"m3.safetensors")");
  refuse_folder(kNotFound, {"missing shards: m2.safetensors, m3.safetensors"});
}

TEST_F(ModelFaults, B40ATruncatedShardIsNamed) {
  const std::string bytes = model_bytes("a");
  write("m1.safetensors", bytes.substr(0, bytes.size() - 1));
  write_index(R"("a":"m1.safetensors")");
  refuse_folder(kMetadata, {"m1.safetensors", "tensor 'a'", "incomplete download"});
}

TEST_F(ModelFaults, B41IndexAndShardsMustAgreeBothWays) {
  write("m1.safetensors", model_bytes("a"));
  write("m2.safetensors", model_bytes("b"));
  write_index(R"("a":"m1.safetensors","b":"m2.safetensors","c":"m2.safetensors")");
  refuse_folder(kMetadata, {"tensor 'c'", "names 'm2.safetensors', which does not have it"});
  write_index(R"("a":"m1.safetensors","c":"m2.safetensors")");
  refuse_folder(kMetadata, {"tensor 'b'", "names no file, found in 'm2.safetensors'"});
  write_index(R"("a":"m2.safetensors","b":"m1.safetensors")");
  refuse_folder(kMetadata, {"found in 'm1.safetensors'"});
  write("m2.safetensors", SafetensorsBuilder().add("a", {1}).add("b", {1}).bytes());
  write_index(R"("a":"m1.safetensors","b":"m2.safetensors")");
  refuse_folder(kMetadata, {"tensor 'a'", "names 'm1.safetensors', found in 'm2.safetensors'"});
}

TEST_F(ModelFaults, B42APathInTheIndexIsNeverOpened) {
  write_index(R"("a":"../m.safetensors")");
  refuse_folder(kMetadata, {"expected a plain file name"});
}

TEST_F(ModelFaults, B43AnIndexOf200MBIsRefused) {
  write_index(R"("a":"m.safetensors")");
  fs::resize_file(folder_ / "model.safetensors.index.json", 200'000'000);  // sparse
  refuse_folder(kMetadata, {"expected at most 100000000 bytes, found 200000000"});
}

TEST_F(ModelFaults, B45LoopsAndDanglingLinksAreNotFound) {
  fs::create_symlink("loop", folder_ / "loop");
  refuse(folder_ / "loop", kNotFound, {"loop"});
  fs::create_symlink("gone", folder_ / "dangling");
  refuse(folder_ / "dangling", kNotFound, {"a symbolic link that leads nowhere"});
  fs::create_symlink("gone", folder_ / "model.safetensors");
  refuse_folder(kNotFound, {"model.safetensors", "No such file"});
}

TEST_F(ModelFaults, B45AShardThatIsALoopOrDanglesIsMissing) {
  fs::create_symlink("m1.safetensors", folder_ / "m1.safetensors");
  fs::create_symlink("gone", folder_ / "m2.safetensors");
  write_index(R"("a":"m1.safetensors","b":"m2.safetensors")");
  refuse_folder(kNotFound, {"missing shards: m1.safetensors, m2.safetensors"});
}

TEST_F(ModelFaults, AShardNameTooLongForTheFileSystemIsMissing) {
  write_index("\"a\":\"" + std::string(300, 'n') + ".safetensors\"");
  refuse_folder(kNotFound, {"missing shards: nnn"});
}

TEST_F(ModelFaults, B45OtherFilesThatAreLoopsOrDangleAreNamed) {
  write("model.safetensors", model_bytes());
  fs::create_symlink("gone", folder_ / "vocab.json");
  refuse_folder(kNotFound, {"vocab.json", "leads nowhere"});
  fs::remove(folder_ / "vocab.json");
  fs::create_symlink("merges.txt", folder_ / "merges.txt");
  refuse_folder(kNotFound, {"leads nowhere"});
}

TEST_F(ModelFaults, AFolderThatContainsItselfEndsInAnError) {
  write("model.safetensors", model_bytes());
  fs::create_directory_symlink(".", folder_ / "again");
  refuse_folder(kNotFound, {"nested deeper than 16"});
}

TEST_F(ModelFaults, A36AFolderWithoutPermissionSaysSo) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  write("model.safetensors", model_bytes());
  ASSERT_EQ(::chmod(folder_.path().c_str(), 0), 0);
  refuse_folder(kNotFound, {"ermission denied"});
  ASSERT_EQ(::chmod(folder_.path().c_str(), 0700), 0);
}

TEST_F(ModelFaults, B51APathBeyondTheLimitIsNotFound) {
  refuse("/" + std::string(5000, 'n'), kNotFound, {"too long"});
  refuse(folder_ / std::string(256, 'n'), kNotFound, {"too long"});
}

TEST_F(ModelFaults, AMalformedModelIndexIsRefused) {
  write("model_index.json", "[]");
  refuse_folder(kMetadata, {"model_index.json", "expected an object"});
  write("model_index.json", "{\"unet\":[1,2],\"unet\":[3]}");
  refuse_folder(kMetadata, {"model_index.json", "duplicate key 'unet'"});
}

TEST_F(ModelFaults, APipelineWithoutWeightsIsNotFound) {
  write("model_index.json", R"({"unet":["diffusers","X"]})");
  write("unet/config.json", "{}");
  refuse_folder(kNotFound, {"no model in this folder"});
  write("unet/diffusion_pytorch_model.bin", "pickle");
  refuse_folder(kNotFound, {"Found unet/diffusion_pytorch_model.bin", "Only safetensors is read"});
}

}  // namespace
}  // namespace arrow_quant
