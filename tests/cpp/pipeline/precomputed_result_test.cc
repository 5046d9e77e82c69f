// A run that stores again what an earlier one made, with changes.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/pipeline.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

using testing::QuietProgress;
using testing::TempFolder;
using testing::write_tiny_model;

QuantizeReport quantize(const std::string& model, const std::string& output,
                        const QuantizeOptions& with) {
  QuietProgress progress;
  return quantize_model(model, output, with, progress);
}

/// Every quantized tensor of the artefact at `path`, as the run with `report` left it.
EarlierResult precomputed_result(const std::string& path, const QuantizeReport& report) {
  EarlierResult precomputed{.bit_width = report.bit_width,
                            .meets_min_accuracy = report.meets_min_accuracy,
                            .attempts = report.attempts,
                            .warnings = report.warnings};
  const Artefact artefact = Artefact::open(path);
  for (size_t i = 0; i < report.tensors.size(); ++i) {
    const TensorReport& tensor = report.tensors[i];
    if (tensor.info.encoding == Encoding::kCopy) continue;
    precomputed.tensors[{tensor.component, tensor.info.name}] = {
        .report = tensor, .tensor = std::make_shared<const QuantizedTensor>(artefact.read(0, i))};
  }
  return precomputed;
}

class PrecomputedResult : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tiny_model(temp_.path() / "model");
    options_.plan.bit_width = 2;
    options_.num_threads = 2;
    report_ = quantize(temp_ / "model", temp_ / "first", options_);
  }

  const TempFolder temp_;
  QuantizeOptions options_;
  QuantizeReport report_;
};

TEST_F(PrecomputedResult, UnchangedTensorsAreStoredAsTheyAre) {
  options_.earlier =
      std::make_shared<const EarlierResult>(precomputed_result(temp_ / "first", report_));
  const QuantizeReport again = quantize(temp_ / "model", temp_ / "again", options_);
  const Artefact first = Artefact::open(temp_ / "first");
  const Artefact second = Artefact::open(temp_ / "again");
  second.verify([] {});
  ASSERT_EQ(again.tensors.size(), report_.tensors.size());
  for (size_t i = 0; i < again.tensors.size(); ++i) {
    const QuantizedTensor one = first.read(0, i);
    const QuantizedTensor two = second.read(0, i);
    EXPECT_EQ(one.info.name, two.info.name);
    ASSERT_EQ(one.chunks.size(), two.chunks.size());
    for (size_t c = 0; c < one.chunks.size(); ++c) {
      EXPECT_EQ(one.chunks[c].codes, two.chunks[c].codes);
      EXPECT_EQ(one.chunks[c].params, two.chunks[c].params);
      EXPECT_EQ(one.chunks[c].row_scales, two.chunks[c].row_scales);
    }
  }
  // The errors are summed in another order.
  EXPECT_NEAR(again.cosine_similarity, report_.cosine_similarity, 1e-8);
  EXPECT_EQ(again.attempts.size(), report_.attempts.size());
}

TEST_F(PrecomputedResult, ChangedCodesAreStoredAndMeasured) {
  EarlierResult precomputed = precomputed_result(temp_ / "first", report_);
  auto& [key, entry] = *precomputed.tensors.begin();
  auto changed = std::make_shared<QuantizedTensor>(*entry.tensor);
  for (uint8_t& byte : changed->chunks[0].codes) byte = static_cast<uint8_t>(byte ^ 0x55);
  const auto codes = changed->chunks[0].codes;
  entry.tensor = changed;
  entry.report.info.spec.method = Method::kLearned;
  const std::string name = key.second;
  const double before = entry.report.info.nmse;
  options_.earlier = std::make_shared<const EarlierResult>(std::move(precomputed));
  const QuantizeReport again = quantize(temp_ / "model", temp_ / "again", options_);
  const Artefact artefact = Artefact::open(temp_ / "again");
  artefact.verify([] {});
  for (size_t i = 0; i < again.tensors.size(); ++i) {
    const QuantizedTensorInfo& info = again.tensors[i].info;
    if (info.name != name) continue;
    const QuantizedTensor stored = artefact.read(0, i);
    EXPECT_EQ(stored.chunks[0].codes, codes);
    EXPECT_EQ(stored.info.method, "learned");
    EXPECT_GT(info.nmse, 2 * before);
    EXPECT_LT(info.cosine, report_.tensors[i].info.cosine);
  }
}

}  // namespace
}  // namespace arrow_quant
