#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "quantize/error_sums.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

using testing::f32_tensor;
using testing::QuietProgress;
using testing::random_weights;
using testing::TempFolder;
using testing::tiny_tensors;
using testing::TinyTensor;
using testing::write_tiny_model;
using testing::write_tiny_pipeline;
namespace fs = std::filesystem;

QuantizeReport quantize(const std::string& model, const std::string& output,
                        const PlanOptions& plan = {}) {
  QuietProgress progress;
  QuantizeOptions options;
  options.plan = plan;
  options.num_threads = 2;
  options.overwrite = true;
  return quantize_model(model, output, options, progress);
}

ValidationReport validate(const std::string& model, const std::string& output, int threads = 2) {
  QuietProgress progress;
  return validate_artefact(model, output, threads, progress);
}

void expect_same_figures(const ValidationReport& found, const QuantizeReport& reported) {
  EXPECT_TRUE(found.problems.empty()) << found.problems[0];
  EXPECT_NEAR(found.cosine_similarity, reported.cosine_similarity, 1e-6);
  EXPECT_NEAR(found.min_cosine_similarity, reported.min_cosine_similarity, 1e-6);
  EXPECT_NEAR(found.nmse, reported.nmse, 1e-6);
  ASSERT_EQ(found.tensors.size(), reported.tensors.size());
  for (size_t i = 0; i < found.tensors.size(); ++i) {
    const QuantizedTensorInfo& info = reported.tensors[i].info;
    SCOPED_TRACE(info.name + " with " + std::to_string(info.cols()) + " inputs, " +
                 std::to_string(info.spec.bit_width) + " bits, " +
                 std::string(to_string(info.spec.param_encoding)));
    EXPECT_EQ(found.tensors[i].name, info.name);
    EXPECT_NEAR(found.tensors[i].cosine, info.cosine, 1e-6);
    EXPECT_NEAR(found.tensors[i].nmse, info.nmse, 1e-6);
  }
}

TEST(ErrorSums, AreThoseOfTheDefinition) {
  std::vector<float> w;
  std::vector<float> v;
  double ww = 0, vv = 0, wv = 0, err = 0;
  for (int i = 0; i < 21; ++i) {
    w.push_back(static_cast<float>(i) - 7.5F);
    v.push_back(static_cast<float>(i % 5) - 2.0F);
    ww += double{w.back()} * w.back();
    vv += double{v.back()} * v.back();
    wv += double{w.back()} * v.back();
    err += (double{w.back()} - v.back()) * (double{w.back()} - v.back());
    const ErrorSums sums = error_sums(w, v);
    EXPECT_EQ(sums.count, w.size());
    EXPECT_DOUBLE_EQ(sums.ww, ww);
    EXPECT_DOUBLE_EQ(sums.vv, vv);
    EXPECT_DOUBLE_EQ(sums.wv, wv);
    EXPECT_DOUBLE_EQ(sums.err, err);
  }
  EXPECT_EQ(error_sums({}, {}).cosine(), 1.0);
}

TEST(ValidateArtefact, FindsTheFiguresOfTheReportForRaggedGroups) {
  const TempFolder temp;
  std::vector<TinyTensor> tensors;
  uint32_t seed = 0;
  for (const uint64_t cols : {33U, 100U, 145U, 160U, 1000U}) {
    tensors.push_back(f32_tensor("b" + std::to_string(cols) + ".weight", {48, cols}, ++seed));
  }
  tensors.push_back(f32_tensor("conv.weight", {32, 16, 3, 3}, ++seed));
  write_tiny_model(temp.path() / "model", tensors);
  for (const int bits : {2, 4, 8}) {
    for (const auto encoding :
         {ParamEncodingChoice::kAuto, ParamEncodingChoice::kFp16, ParamEncodingChoice::kTwoLevel}) {
      for (const Method method : {Method::kRtn, Method::kSearch}) {
        const PlanOptions plan{.bit_width = bits, .method = method, .param_encoding = encoding};
        const QuantizeReport report = quantize(temp / "model", temp / "out", plan);
        expect_same_figures(validate(temp / "model", temp / "out"), report);
      }
    }
  }
}

TEST(ValidateArtefact, FindsTheFiguresOfTheReportForConstantAndZeroRows) {
  const TempFolder temp;
  std::vector<float> constant(64 * 160, 0.25F);
  std::vector<float> sparse(64 * 160, 0.0F);
  for (size_t i = 0; i < sparse.size(); i += 161) sparse[i] = 1.0F;
  write_tiny_model(temp.path() / "model",
                   {f32_tensor("constant.weight", {64, 160}, constant),
                    f32_tensor("sparse.weight", {64, 160}, sparse),
                    f32_tensor("zero.weight", {64, 160}, std::vector<float>(64 * 160, 0.0F))});
  for (const int bits : {2, 4, 8}) {
    const QuantizeReport report = quantize(temp / "model", temp / "out", {.bit_width = bits});
    expect_same_figures(validate(temp / "model", temp / "out"), report);
  }
}

// ARROW_QUANT_TEST_MODELS: paths of models, separated by ':'.
TEST(ValidateArtefact, FindsTheFiguresOfTheReportForRealModels) {
  const char* paths = std::getenv("ARROW_QUANT_TEST_MODELS");
  if (paths == nullptr) GTEST_SKIP() << "ARROW_QUANT_TEST_MODELS names no model";
  const TempFolder temp;
  std::istringstream list(paths);
  for (std::string path; std::getline(list, path, ':');) {
    for (const int bits : {2, 4, 8}) {
      const PlanOptions plan{.bit_width = bits, .modality = "image"};
      const QuantizeReport report = quantize(path, temp / "out", plan);
      expect_same_figures(validate(path, temp / "out"), report);
    }
  }
}

TEST(ValidateArtefact, ItsFiguresDoNotDependOnTheNumberOfThreads) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model", {f32_tensor("w.weight", {600, 500}, 1)});
  quantize(temp / "model", temp / "out");
  const double one = validate(temp / "model", temp / "out", 1).nmse;
  EXPECT_EQ(validate(temp / "model", temp / "out", 3).nmse, one);
}

class ChangedModel : public ::testing::Test {
 protected:
  ChangedModel() {
    write_tiny_model(temp_.path() / "model");
    quantize(temp_ / "model", temp_ / "out");
  }

  std::vector<std::string> problems_with(const std::vector<TinyTensor>& tensors) {
    write_tiny_model(temp_.path() / "model", tensors);
    return validate(temp_ / "model", temp_ / "out").problems;
  }

  const TempFolder temp_;
};

TEST_F(ChangedModel, AKeptTensorThatDiffersIsFound) {
  std::vector<TinyTensor> tensors = tiny_tensors();
  tensors[1].bytes.back() = static_cast<char>(tensors[1].bytes.back() ^ 1);
  const auto problems = problems_with(tensors);
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].find("block.w1.bias"), std::string::npos) << problems[0];
}

TEST_F(ChangedModel, ATensorMoreAndATensorLessAreFound) {
  std::vector<TinyTensor> tensors = tiny_tensors();
  tensors[2].name = "block.renamed.weight";
  const auto problems = problems_with(tensors);
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_EQ(problems[0], "extra tensor 'block.norm.weight'");
  EXPECT_EQ(problems[1], "missing tensor 'block.renamed.weight'");
}

TEST_F(ChangedModel, AnotherShapeOrDtypeIsFound) {
  std::vector<TinyTensor> tensors = tiny_tensors();
  tensors[0].shape = {160, 24};
  tensors[1].dtype = DType::kI32;
  EXPECT_EQ(problems_with(tensors).size(), 2U);
}

TEST_F(ChangedModel, OtherWeightsShowInTheFigures) {
  std::vector<TinyTensor> tensors = tiny_tensors();
  tensors[0] = f32_tensor("block.w1.weight", {24, 160}, 77);
  EXPECT_TRUE(problems_with(tensors).empty());
  const ValidationReport report = validate(temp_ / "model", temp_ / "out");
  EXPECT_EQ(report.worst_layer, "block.w1.weight");
  EXPECT_LT(report.min_cosine_similarity, 0.2);
}

TEST_F(ChangedModel, ADamagedArtefactIsAnError) {
  const fs::path file = fs::path(temp_ / "out") / "config.json";
  testing::write_file(file, testing::read_file(file).replace(0, 1, "["));
  try {
    validate(temp_ / "model", temp_ / "out");
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kValidation);
    EXPECT_NE(e.path().find("config.json"), std::string::npos);
  }
}

TEST(ValidateArtefact, APipelineWithoutTheComponentIsAProblem) {
  const TempFolder temp;
  write_tiny_pipeline(temp.path() / "model");
  quantize(temp / "model", temp / "out");
  EXPECT_TRUE(validate(temp / "model", temp / "out").problems.empty());
  const auto problems = validate(temp / "model/vae", temp / "out").problems;
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].find("'unet'"), std::string::npos) << problems[0];
}

TEST(ValidateArtefact, ProgressNeverDecreasesAndEndsAtOne) {
  const TempFolder temp;
  write_tiny_pipeline(temp.path() / "model");
  quantize(temp / "model", temp / "out", {.components = {"unet", "vae"}});
  QuietProgress progress;
  validate_artefact(temp / "model", temp / "out", 2, progress);
  EXPECT_TRUE(std::ranges::is_sorted(progress.fractions));
  EXPECT_EQ(progress.fractions.back(), 1.0);
}

TEST(ValidateArtefact, AnExceptionOfProgressPassesUnchanged) {
  struct Stop {};
  class Stopping final : public Progress {
   public:
    explicit Stopping(int calls) : calls_(calls) {}
    void report(std::string_view /*message*/, double /*fraction*/) override { poll(); }
    void poll() override {
      if (calls_-- == 0) throw Stop();
    }

   private:
    int calls_;
  };
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  quantize(temp / "model", temp / "out");
  for (int calls = 0;; ++calls) {
    Stopping progress(calls);
    try {
      validate_artefact(temp / "model", temp / "out", 2, progress);
      EXPECT_GT(calls, 5);
      break;
    } catch (const Stop&) {
      continue;
    }
  }
}

}  // namespace
}  // namespace arrow_quant
