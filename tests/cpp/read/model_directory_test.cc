// Models as users have them on disk: files, components, pipelines, shards, hub caches.
#include "read/model_directory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "read/safetensors_builder.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using testing::SafetensorsBuilder;
using testing::TempFolder;
using testing::write_file;
using Names = std::vector<std::string>;

std::string model_bytes(const std::string& tensor = "a.weight") {
  return SafetensorsBuilder().add(tensor, {4, 8}).bytes();
}

TEST(ModelDirectory, OneFileIsAModel) {
  const TempFolder folder;
  write_file(folder / "lora.safetensors", model_bytes());
  const ModelDirectory model = open_model(folder / "lora.safetensors");
  EXPECT_EQ(model.kind, ModelDirectory::Kind::kFile);
  ASSERT_EQ(model.components.size(), 1U);
  EXPECT_EQ(model.components[0].component, "");
  EXPECT_EQ(model.components[0].tensors.at(0).name, "a.weight");
  EXPECT_EQ(model.components[0].total_bytes(), model_bytes().size());
  EXPECT_EQ(model.other_files, Names{});
}

TEST(ModelDirectory, TensorsGetOtherNamesOrAreLeftOut) {
  const TempFolder folder;
  const std::string path = folder / "m.safetensors";
  write_file(path, SafetensorsBuilder().add("x.a", {4, 8}).add("x.b", {4}).add("c", {2}).bytes());
  const ModelDirectory model = open_model(path, {{"", {{"x.a", "a"}, {"x.b", ""}}}});
  ASSERT_EQ(model.components.at(0).tensors.size(), 2U);
  EXPECT_EQ(model.components[0].tensors[0].name, "a");
  EXPECT_EQ(model.components[0].tensors[1].name, "c");
  EXPECT_EQ(open_model(path, {{"unet", {{"x.a", "a"}}}}).components[0].tensors[0].name, "x.a");
}

TEST(ModelDirectory, AComponentFolderHasWeightsAndAConfig) {
  const TempFolder folder;
  write_file(folder / "diffusion_pytorch_model.safetensors", model_bytes());
  write_file(folder / "config.json", "{\"_class_name\":\"UNet2DModel\"}");
  write_file(folder / "README.md", "text");
  write_file(folder / "metadata.json", "{}");
  const ModelDirectory model = open_model(folder.path().string());
  EXPECT_EQ(model.kind, ModelDirectory::Kind::kComponent);
  EXPECT_EQ(model.components.at(0).config_json, "{\"_class_name\":\"UNet2DModel\"}");
  EXPECT_EQ(model.metadata_json, "{}");
  EXPECT_EQ(model.other_files, (Names{"README.md", "config.json", "metadata.json"}));
  EXPECT_EQ(open_model(folder.path().string() + "/").components.size(), 1U);
}

TEST(ModelDirectory, TheUsualNameWinsOverItsVariants) {
  const TempFolder folder;
  write_file(folder / "model.safetensors", model_bytes("usual"));
  write_file(folder / "model.fp16.safetensors", model_bytes("variant"));
  write_file(folder / "pytorch_model.bin", "pickle");
  const ModelDirectory model = open_model(folder.path().string());
  EXPECT_EQ(model.components.at(0).tensors.at(0).name, "usual");
  EXPECT_EQ(model.other_files, Names{});
}

TEST(ModelDirectory, TheOnlyFileIsTakenWhateverItsName) {
  const TempFolder folder;
  write_file(folder / "diffusion_pytorch_model.fp16.safetensors", model_bytes());
  write_file(folder / "._diffusion_pytorch_model.fp16.safetensors", "resource fork");
  EXPECT_EQ(open_model(folder.path().string()).components.at(0).tensors.size(), 1U);
}

TEST(ModelDirectory, APipelineHasItsComponentsByNameAndCarriesTheRestOver) {
  const TempFolder folder;
  write_file(
      folder / "model_index.json",
      R"({"_class_name":"StableDiffusionPipeline","unet":["diffusers","UNet2DConditionModel"],
                 "vae":["diffusers","AutoencoderKL"],"scheduler":["diffusers","DDIMScheduler"],
                 "safety_checker":[null,null],"requires_safety_checker":false})");
  write_file(folder / "unet/diffusion_pytorch_model.safetensors", model_bytes("u"));
  write_file(folder / "unet/diffusion_pytorch_model.bin", "pickle");
  write_file(folder / "unet/config.json", "{}");
  write_file(folder / "vae/diffusion_pytorch_model.safetensors", model_bytes("v"));
  write_file(folder / "scheduler/scheduler_config.json", "{}");
  write_file(folder / "tokenizer/vocab.json", "{}");
  write_file(folder / "tokenizer/spiece.model", "x");
  write_file(folder / "feature/pytorch_model.bin", "no component: carried over");
  write_file(folder / ".git/config", "hidden");
  write_file(folder / ".gitattributes", "hidden");
  const ModelDirectory model = open_model(folder.path().string());
  EXPECT_EQ(model.kind, ModelDirectory::Kind::kPipeline);
  ASSERT_EQ(model.components.size(), 2U);
  EXPECT_EQ(model.components[0].component, "unet");
  EXPECT_EQ(model.components[1].component, "vae");
  EXPECT_EQ(model.other_files, (Names{"feature/pytorch_model.bin", "model_index.json",
                                      "scheduler/scheduler_config.json", "tokenizer/spiece.model",
                                      "tokenizer/vocab.json", "unet/config.json"}));
  EXPECT_EQ(model.warnings, Names{});
}

TEST(ModelDirectory, APipelineOnceMoreInOneFileIsLeftOutWithAWarning) {
  const TempFolder folder;
  write_file(folder / "model_index.json", R"({"transformer":["diffusers","X"]})");
  write_file(folder / "transformer/model.safetensors", model_bytes());
  write_file(folder / "flux1-dev.safetensors", model_bytes());
  const ModelDirectory model = open_model(folder.path().string());
  EXPECT_EQ(model.other_files, Names{"model_index.json"});
  ASSERT_EQ(model.warnings.size(), 1U);
  EXPECT_NE(model.warnings[0].find("flux1-dev.safetensors"), std::string::npos);
}

TEST(ModelDirectory, ComponentNamesOfAPipelineStayInsideIt) {
  const TempFolder folder;
  write_file(folder / "outside/model.safetensors", model_bytes("outside"));
  write_file(folder / "p/model_index.json",
             R"({"../outside":["a","B"],"unet":["a","B"],".":["a","B"],"..":["a","B"]})");
  write_file(folder / "p/unet/model.safetensors", model_bytes("inside"));
  const ModelDirectory model = open_model(folder / "p");
  ASSERT_EQ(model.components.size(), 1U);
  EXPECT_EQ(model.components[0].tensors.at(0).name, "inside");
}

class Shards : public ::testing::Test {
 protected:
  void write_index(const std::string& weight_map, const std::string& total = "256") {
    write_file(folder_ / "model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":" + total + "},\"weight_map\":{" + weight_map + "}}");
  }
  void write_two() {
    write_file(folder_ / "model-00001-of-00002.safetensors", model_bytes("a"));
    write_file(folder_ / "model-00002-of-00002.safetensors", model_bytes("b"));
    write_index(R"("a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors")");
  }

  TempFolder folder_;
};

TEST_F(Shards, AreReadInOrderAsOneComponent) {
  write_two();
  const ModelDirectory model = open_model(folder_.path().string());
  const ModelIndex& component = model.components.at(0);
  ASSERT_EQ(component.files.size(), 2U);
  EXPECT_EQ(component.tensors.at(0).name, "a");
  EXPECT_EQ(component.tensors.at(1).name, "b");
  EXPECT_EQ(component.tensors.at(1).file, 1U);
  EXPECT_EQ(component.index_path, folder_ / "model.safetensors.index.json");
  EXPECT_EQ(model.other_files, Names{});
  EXPECT_EQ(model.warnings, Names{});
}

TEST_F(Shards, AnIndexOfAnyNameIsFound) {
  write_two();
  fs::rename(folder_ / "model.safetensors.index.json", folder_ / "odd.safetensors.index.json");
  EXPECT_EQ(open_model(folder_.path().string()).components.at(0).files.size(), 2U);
}

TEST_F(Shards, B44AWrongTotalSizeIsAWarning) {
  write_two();
  write_index(R"("a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors")",
              "1");
  const ModelDirectory model = open_model(folder_.path().string());
  ASSERT_EQ(model.warnings.size(), 1U);
  EXPECT_NE(model.warnings[0].find("total_size says 1, the tensors have 256 bytes"),
            std::string::npos);
}

TEST_F(Shards, B45MayBeLinksIntoAHubCache) {
  // snapshots/<revision>/<name> -> ../../blobs/<hash>, as the Hugging Face cache has it.
  const std::string blobs = folder_ / "cache/blobs/";
  write_file(blobs + "aaa", model_bytes("a"));
  write_file(blobs + "bbb", "{\"_class_name\":\"UNet2DModel\"}");
  const fs::path snapshot = folder_ / "cache/snapshots/0123";
  fs::create_directories(snapshot);
  fs::create_symlink("../../blobs/aaa", snapshot / "diffusion_pytorch_model.safetensors");
  fs::create_symlink("../../blobs/bbb", snapshot / "config.json");
  const ModelDirectory model = open_model(snapshot.string());
  EXPECT_EQ(model.components.at(0).tensors.at(0).name, "a");
  EXPECT_EQ(model.components.at(0).config_json, "{\"_class_name\":\"UNet2DModel\"}");
  EXPECT_EQ(model.other_files, Names{"config.json"});
}

TEST(ModelDirectory, LinkedFoldersAreFollowed) {
  const TempFolder folder;
  write_file(folder / "shared/model.safetensors", model_bytes());
  write_file(folder / "shared/config.json", "{}");
  write_file(folder / "p/model_index.json", R"({"unet":["diffusers","X"]})");
  fs::create_directory_symlink("../shared", folder / "p/unet");
  const ModelDirectory model = open_model(folder / "p");
  EXPECT_EQ(model.components.at(0).tensors.size(), 1U);
  EXPECT_EQ(model.other_files, (Names{"model_index.json", "unet/config.json"}));
}

TEST(ModelDirectory, B51PathsOfAnyBytesAndLongNamesWork) {
  const TempFolder folder;
  const std::string odd = folder / ("\xff\xfe caf\xC3\xA9 \n" + std::string(200, 'n'));
  write_file(odd + "/model.safetensors", model_bytes());
  write_file(odd + "/\xff.txt", "x");
  const ModelDirectory model = open_model(odd);
  EXPECT_EQ(model.components.size(), 1U);
  EXPECT_EQ(model.other_files, Names{"\xff.txt"});
}

}  // namespace
}  // namespace arrow_quant
