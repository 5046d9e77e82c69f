// What max_memory_mb decides about bytes, and that the artefact says so; threads decide nothing.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "arrow_quant/artefact.h"
#include "arrow_quant/calibration.h"
#include "arrow_quant/pipeline.h"
#include "calibrate/statistics_fixture.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

using testing::QuietProgress;
using testing::read_tree;
using testing::TempFolder;
using testing::TinyTensor;

class MemoryLimit : public ::testing::Test {
 protected:
  void SetUp() override {
    const TinyTensor tensor = testing::f32_tensor("block.proj.weight", {64, 512}, 1);
    testing::write_tiny_model(temp_.path() / "model", {tensor});
    std::vector<float> weights(tensor.bytes.size() / sizeof(float));
    std::memcpy(weights.data(), tensor.bytes.data(), tensor.bytes.size());
    CalibratedLayer layer{.name = tensor.name, .shape = tensor.shape};
    for (const uint64_t at : weight_sample_positions(weights.size())) {
      layer.sample.push_back(weights[at]);
    }
    for (const uint64_t block : {0, 256}) {
      CalibrationStatistics statistics({.num_threads = 1});
      statistics.add_input({layer}, 512, block);
      QuietProgress progress;
      statistics.add(0, {testing::random_activations(700, 512)}, progress);
      statistics.save(temp_ / ("statistics" + std::to_string(block)), false);
    }
    options_.plan.modality = "image";
    options_.plan.choose_method = true;
    options_.statistics_path = temp_ / "statistics0";
    options_.overwrite = true;
  }

  std::map<std::string, std::string> artefact(uint64_t max_memory_mb, int threads) {
    options_.max_memory_mb = max_memory_mb;
    options_.num_threads = threads;
    QuietProgress progress;
    (void)quantize_model(temp_ / "model", temp_ / "out", options_, progress);
    return read_tree(temp_ / "out");
  }

  /// What the artefact that was made last says of limits.
  nlohmann::json limits() const {
    const auto metadata = Artefact::open(temp_ / "out").metadata(0);
    const auto found = metadata.find("memory_limits");
    return found == metadata.end() ? nlohmann::json() : nlohmann::json::parse(found->second);
  }

  const TempFolder temp_;
  QuantizeOptions options_;
};

TEST_F(MemoryLimit, BytesDoNotDependOnThreadsWhereAllOfThemWouldNotFit) {
  const auto one = artefact(160, 1);
  EXPECT_TRUE(limits().is_null());
  EXPECT_EQ(artefact(160, 16), one) << "the scratch of 16 threads does not fit 80 MB";
  EXPECT_EQ(artefact(4096, 2), one);
}

TEST_F(MemoryLimit, IsRecordedWhereItWithheldMatrices) {
  const auto whole = artefact(1024, 2);
  EXPECT_TRUE(limits().is_null());
  const auto limited = artefact(64, 2);
  EXPECT_NE(limited, whole);
  EXPECT_EQ(limits(),
            nlohmann::json({{"max_memory_mb", 64}, {"without_matrices", {"block.proj.weight"}}}));
}

TEST_F(MemoryLimit, OfTheCalibrationIsRecordedAsBlocksOfItsMatrices) {
  options_.statistics_path = temp_ / "statistics256";
  (void)artefact(1024, 2);
  EXPECT_EQ(limits(), nlohmann::json({{"diagonal_blocks", {{"block.proj.weight", 256}}}}));
}

TEST_F(MemoryLimit, TheManifestNamesTheMachineOfACalibratedRunOnly) {
  options_.torch_version = "2.0";
  const auto machine = [](const std::map<std::string, std::string>& files) {
    const auto manifest = nlohmann::json::parse(files.at("manifest.json"));
    return manifest.contains("machine") ? manifest["machine"] : nlohmann::json();
  };
  const nlohmann::json calibrated = machine(artefact(1024, 2));
  EXPECT_EQ(calibrated["instruction_set"], build_info().isa);
  EXPECT_EQ(calibrated["openblas"], build_info().openblas);
  EXPECT_EQ(calibrated["torch"], "2.0");
  options_.statistics_path.clear();
  EXPECT_TRUE(machine(artefact(1024, 2)).is_null());
}

}  // namespace
}  // namespace arrow_quant
