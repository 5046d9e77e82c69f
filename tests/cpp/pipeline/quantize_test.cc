#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrow_quant/artefact.h"
#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

using testing::f32_tensor;
using testing::names_in;
using testing::QuietProgress;
using testing::random_weights;
using testing::raw_tensor;
using testing::read_file;
using testing::read_tree;
using testing::TempFolder;
using testing::TinyTensor;
using testing::write_file;
using testing::write_tiny_model;
using testing::write_tiny_pipeline;
namespace fs = std::filesystem;

using Names = std::set<std::string>;

QuantizeOptions options(int bit_width = 4) {
  QuantizeOptions result;
  result.plan.bit_width = bit_width;
  result.num_threads = 2;
  return result;
}

QuantizeReport quantize(const std::string& model, const std::string& output,
                        const QuantizeOptions& with) {
  QuietProgress progress;
  return quantize_model(model, output, with, progress);
}

/// Runs the job and expects an error.
Error failure(const std::string& model, const std::string& output, const QuantizeOptions& with) {
  try {
    quantize(model, output, with);
  } catch (const Error& e) {
    return e;
  }
  throw std::runtime_error("expected an error");
}

TEST(QuantizeModel, BytesDoNotDependOnTheNumberOfThreads) {
  const TempFolder temp;
  std::vector<TinyTensor> tensors = testing::tiny_tensors();
  tensors.push_back(f32_tensor("block.large.weight", {700, 400}, 6));  // several blocks of rows
  write_tiny_model(temp.path() / "model", tensors);
  for (const int bits : {2, 4, 8}) {
    std::map<std::string, std::string> first;
    for (const int threads : {1, 2, 5}) {
      QuantizeOptions with = options(bits);
      with.num_threads = threads;
      with.overwrite = true;
      quantize(temp / "model", temp / "out", with);
      const auto files = read_tree(temp / "out");
      if (first.empty()) first = files;
      EXPECT_EQ(files, first) << bits << " bits, " << threads << " threads";
    }
  }
}

TEST(QuantizeModel, TheReportAndTheArtefactAgree) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  const QuantizeReport report = quantize(temp / "model", temp / "out", options());
  const Artefact artefact = Artefact::open(temp / "out");
  const auto& stored = artefact.tensors(0);
  ASSERT_EQ(stored.size(), report.tensors.size());
  uint64_t quantized = 0;
  for (size_t i = 0; i < stored.size(); ++i) {
    const QuantizedTensorInfo& info = report.tensors[i].info;
    EXPECT_EQ(stored[i].name, info.name);
    EXPECT_EQ(stored[i].encoding, info.encoding);
    EXPECT_NEAR(stored[i].cosine, info.cosine, 1e-6);
    EXPECT_NEAR(stored[i].nmse, info.nmse, 1e-6);
    EXPECT_EQ(artefact.stored_bytes(0)[i], report.tensors[i].stored_bytes);
    if (info.encoding == Encoding::kAffine) ++quantized;
  }
  EXPECT_EQ(quantized, 3U);
  EXPECT_EQ(report.bit_width, 4);
  EXPECT_GT(report.cosine_similarity, 0.99);
  EXPECT_GE(report.cosine_similarity, report.min_cosine_similarity);
  uint64_t total = 0;
  for (const auto& [name, bytes] : read_tree(temp / "out")) total += bytes.size();
  EXPECT_EQ(report.total_bytes, total);
  EXPECT_EQ(report.weights_bytes, fs::file_size(temp / "out/weights.parquet"));
}

TEST(QuantizeModel, ANaNOrInfIsNamedByItsTensorAndFirstIndex) {
  const TempFolder temp;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {kNaN, kInf, -kInf}) {
    std::vector<float> weights = random_weights({300, 1000}, 1);
    weights[123'456] = bad;
    weights[299'999] = bad;
    write_tiny_model(temp.path() / "model", {f32_tensor("sound.weight", {64, 64}, 2),
                                             f32_tensor("block.bad.weight", {300, 1000}, weights)});
    for (const int bits : {2, 4, 8}) {
      const Error error = failure(temp / "model", temp / "out", options(bits));
      EXPECT_EQ(error.code(), ErrorCode::kQuantization);
      EXPECT_EQ(error.tensor(), "block.bad.weight");
      EXPECT_NE(std::string(error.what()).find("element 123456\n"), std::string::npos)
          << error.what();
      EXPECT_EQ(names_in(temp.path()), Names{"model"});
    }
  }
}

TEST(QuantizeModel, AKeptTensorMayHoldNaN) {
  const TempFolder temp;
  std::vector<TinyTensor> tensors = testing::tiny_tensors();
  tensors.push_back(
      f32_tensor("mask.bias", {2}, {std::numeric_limits<float>::quiet_NaN(), -INFINITY}));
  write_tiny_model(temp.path() / "model", tensors);
  quantize(temp / "model", temp / "out", options());
  const QuantizedTensor kept = Artefact::open(temp / "out").read(0, 5);
  EXPECT_EQ(std::string(kept.chunks[0].codes.begin(), kept.chunks[0].codes.end()),
            tensors[5].bytes);
}

TEST(QuantizeModel, AnErrorLeavesTheOldArtefactWhole) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  QuantizeOptions with = options();
  quantize(temp / "model", temp / "out", with);
  const auto before = read_tree(temp / "out");
  std::vector<TinyTensor> tensors = testing::tiny_tensors();
  tensors.back().bytes.replace(0, 4, "\xFF\xFF\xFF\xFF");  // NaN
  write_tiny_model(temp.path() / "model", tensors);
  EXPECT_EQ(failure(temp / "model", temp / "out", with).code(), ErrorCode::kOutput);
  with.overwrite = true;
  EXPECT_EQ(failure(temp / "model", temp / "out", with).code(), ErrorCode::kQuantization);
  EXPECT_EQ(read_tree(temp / "out"), before);
  EXPECT_EQ(names_in(temp.path()), (Names{"model", "out"}));
}

TEST(QuantizeModel, MoreBitsAreTriedUntilTheAccuracyIsReached) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  const auto cosine = [&](int bits) {
    return quantize(temp / "model", temp / ("plain" + std::to_string(bits)), options(bits))
        .cosine_similarity;
  };
  const double two = cosine(2), four = cosine(4), eight = cosine(8);
  ASSERT_LT(two, four);
  ASSERT_LT(four, eight);
  const std::vector<std::pair<double, std::vector<int>>> cases = {
      {two, {2}}, {(two + four) / 2, {2, 4}}, {(four + eight) / 2, {2, 4, 8}}, {1.0, {2, 4, 8}}};
  for (const auto& [accuracy, widths] : cases) {
    QuantizeOptions with = options(2);
    with.min_accuracy = accuracy;
    with.overwrite = true;
    const QuantizeReport report = quantize(temp / "model", temp / "out", with);
    std::vector<int> tried;
    for (const Attempt& attempt : report.attempts) tried.push_back(attempt.bit_width);
    EXPECT_EQ(tried, widths);
    EXPECT_EQ(report.bit_width, widths.back());
    EXPECT_EQ(report.meets_min_accuracy, accuracy < 1);
    EXPECT_EQ(report.warnings.size(), widths.size() - (accuracy < 1 ? 1 : 0));
    // The weights are those of a run that asked for these bits at once.
    EXPECT_EQ(read_file(temp / "out/weights.parquet"),
              read_file(temp / ("plain" + std::to_string(widths.back()) + "/weights.parquet")));
  }
}

/// Three layers of which the middle one has rare large weights, which two bits cannot follow.
std::vector<TinyTensor> one_hard_layer() {
  std::vector<float> hard = random_weights({64, 256}, 8);
  for (size_t i = 0; i < hard.size(); i += 37) hard[i] *= 9;
  return {f32_tensor("block.a.weight", {64, 256}, 7), f32_tensor("block.b.weight", {64, 256}, hard),
          f32_tensor("block.c.weight", {64, 256}, 9)};
}

double cosine_of(const QuantizeReport& report, const std::string& name) {
  const auto found =
      std::ranges::find(report.tensors, name, [](const TensorReport& t) { return t.info.name; });
  if (found == report.tensors.end()) throw std::runtime_error("no tensor " + name);
  return found->info.cosine;
}

TEST(QuantizeModel, TheWorstLayerHasAGateOfItsOwn) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model", one_hard_layer());
  const QuantizeReport two = quantize(temp / "model", temp / "two", options(2));
  ASSERT_EQ(two.worst_layer, "block.b.weight");
  const double between = (two.min_cosine_similarity + two.cosine_similarity) / 2;
  QuantizeOptions with = options(2);
  with.min_accuracy = between;  // the mean passes
  EXPECT_EQ(quantize(temp / "model", temp / "mean", with).bit_width, 2);
  with.min_layer_accuracy = between;  // the worst layer does not
  const QuantizeReport four = quantize(temp / "model", temp / "worst", with);
  EXPECT_EQ(four.bit_width, 4);
  EXPECT_EQ(four.layers_by_bit_width, (std::map<int, uint64_t>{{4, 3}}));
  ASSERT_EQ(four.attempts.size(), 2U);
  EXPECT_EQ(four.attempts[0].worst_layer, "block.b.weight");
  EXPECT_EQ(four.attempts[0].min_cosine_similarity, two.min_cosine_similarity);
  ASSERT_EQ(four.warnings.size(), 1U);
  EXPECT_NE(four.warnings[0].find("min_layer_accuracy"), std::string::npos) << four.warnings[0];
}

TEST(QuantizeModel, TheFallbackByLayerGivesBitsToFailingLayersOnly) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model", one_hard_layer());
  const QuantizeReport two = quantize(temp / "model", temp / "two", options(2));
  QuantizeOptions with = options(2);
  with.fallback_scope = FallbackScope::kLayer;
  with.min_layer_accuracy = (two.min_cosine_similarity + two.cosine_similarity) / 2;
  const QuantizeReport mixed = quantize(temp / "model", temp / "mixed", with);
  EXPECT_EQ(mixed.layers_by_bit_width, (std::map<int, uint64_t>{{2, 2}, {4, 1}}));
  EXPECT_EQ(mixed.bit_width, 4);
  EXPECT_TRUE(mixed.meets_min_accuracy);
  EXPECT_GE(mixed.min_cosine_similarity, with.min_layer_accuracy);
  EXPECT_EQ(cosine_of(mixed, "block.a.weight"), cosine_of(two, "block.a.weight"));
  EXPECT_GT(cosine_of(mixed, "block.b.weight"), cosine_of(two, "block.b.weight"));
  EXPECT_NE(mixed.tensors[1].reason.find("INT2 missed the accuracy"), std::string::npos);
  const Artefact artefact = Artefact::open(temp / "mixed");
  std::vector<int> widths;
  for (const QuantizedTensorInfo& info : artefact.tensors(0)) widths.push_back(info.spec.bit_width);
  EXPECT_EQ(widths, (std::vector<int>{2, 4, 2}));
  EXPECT_EQ(artefact.read(0, 0).chunks[0].codes,
            Artefact::open(temp / "two").read(0, 0).chunks[0].codes);
}

TEST(QuantizeModel, TheFallbackByLayerReachesAMeanToo) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model", one_hard_layer());
  QuantizeOptions with = options(2);
  with.fallback_scope = FallbackScope::kLayer;
  const QuantizeReport two = quantize(temp / "model", temp / "two", with);
  with.min_accuracy = (two.cosine_similarity + cosine_of(two, "block.a.weight")) / 2;
  ASSERT_LT(two.cosine_similarity, with.min_accuracy);
  const QuantizeReport mixed = quantize(temp / "model", temp / "mixed", with);
  EXPECT_GE(mixed.cosine_similarity, with.min_accuracy);
  EXPECT_EQ(mixed.layers_by_bit_width.at(4), 1U);
  with.min_accuracy = 1.0;  // out of reach: every layer ends at 8 bits and the result is returned
  with.overwrite = true;
  const QuantizeReport eight = quantize(temp / "model", temp / "mixed", with);
  EXPECT_EQ(eight.layers_by_bit_width, (std::map<int, uint64_t>{{8, 3}}));
  EXPECT_FALSE(eight.meets_min_accuracy);
  EXPECT_EQ(eight.attempts.size(), 3U);
}

TEST(QuantizeModel, TheFallbackLeavesLayersWithARuleAlone) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model", one_hard_layer());
  for (const auto scope : {FallbackScope::kModel, FallbackScope::kLayer}) {
    QuantizeOptions with = options(2);
    with.fallback_scope = scope;
    with.overwrite = true;
    with.min_accuracy = 1.0;
    with.plan.layer_rules = {{"block.b", 2}};
    const QuantizeReport some = quantize(temp / "model", temp / "out", with);
    EXPECT_EQ(some.layers_by_bit_width, (std::map<int, uint64_t>{{2, 1}, {8, 2}}));
    EXPECT_EQ(some.bit_width, 8);
    with.plan.layer_rules = {{"*", 2}};
    const QuantizeReport none = quantize(temp / "model", temp / "out", with);
    EXPECT_EQ(none.layers_by_bit_width, (std::map<int, uint64_t>{{2, 3}}));
    EXPECT_EQ(none.attempts.size(), 1U);
    EXPECT_EQ(none.bit_width, 2);
    EXPECT_FALSE(none.meets_min_accuracy);
  }
}

TEST(QuantizeModel, TheFallbackPassesEveryParameterEncoding) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  for (const auto encoding : {ParamEncodingChoice::kTwoLevel, ParamEncodingChoice::kFp16}) {
    QuantizeOptions with = options(2);
    with.plan.param_encoding = encoding;
    with.min_accuracy = 1.0;
    with.overwrite = true;
    const QuantizeReport report = quantize(temp / "model", temp / "out", with);
    EXPECT_EQ(report.bit_width, 8);
    EXPECT_FALSE(report.meets_min_accuracy);
  }
}

TEST(QuantizeModel, FailFastRaisesInsteadOfTryingMoreBits) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  QuantizeOptions with = options(2);
  with.min_accuracy = 0.9999;
  with.fail_fast = true;
  const Error error = failure(temp / "model", temp / "out", with);
  EXPECT_EQ(error.code(), ErrorCode::kQuantization);
  EXPECT_NE(std::string(error.what()).find("INT2"), std::string::npos) << error.what();
  EXPECT_FALSE(error.tensor().empty());
  EXPECT_EQ(names_in(temp.path()), Names{"model"});
}

TEST(QuantizeModel, ProgressNeverDecreasesAndEndsAtOne) {
  const TempFolder temp;
  write_tiny_pipeline(temp.path() / "model");
  QuantizeOptions with = options(2);
  with.min_accuracy = 1.0;  // three attempts
  QuietProgress progress;
  quantize_model(temp / "model", temp / "out", with, progress);
  EXPECT_GE(progress.fractions.size(), 5U);
  EXPECT_TRUE(std::ranges::is_sorted(progress.fractions));
  EXPECT_GE(progress.fractions.front(), 0.0);
  EXPECT_EQ(progress.fractions.back(), 1.0);
}

TEST(QuantizeModel, AnAttemptTakesWhatIsLeftWhenNoneCanFollow) {
  const TempFolder temp;
  write_tiny_pipeline(temp.path() / "model");
  QuantizeOptions with = options(8);
  with.min_accuracy = 1.0;
  QuietProgress last;
  quantize_model(temp / "model", temp / "eight", with, last);
  with.plan.bit_width = 4;
  QuietProgress first;
  quantize_model(temp / "model", temp / "four", with, first);
  // Both end with a commit at 1; before that, the one that was followed had stopped short.
  const auto halfway = [](const QuietProgress& progress) {
    return progress.fractions.at(progress.fractions.size() / 2 - 1);
  };
  EXPECT_GT(last.fractions.at(last.fractions.size() - 2), 0.9);
  EXPECT_LT(halfway(first), 0.9);
  EXPECT_GT(first.fractions.at(first.fractions.size() - 2), 0.9);
}

TEST(QuantizeModel, PathsThatAreTooLongAreErrorsOfTheirKind) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  const std::string name(5000, 'x');
  EXPECT_EQ(failure(name, temp / "out", options()).code(), ErrorCode::kModelNotFound);
  EXPECT_EQ(failure(temp / "model", name, options()).code(), ErrorCode::kOutput);
  EXPECT_EQ(names_in(temp.path()), Names{"model"});
  try {
    Artefact::open(name);
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kModelNotFound);
  }
}

struct Stop {};  // not even a std::exception

class StoppingProgress final : public Progress {
 public:
  explicit StoppingProgress(int calls) : calls_(calls) {}
  void report(std::string_view /*message*/, double /*fraction*/) override { count(); }
  void poll() override { count(); }

 private:
  void count() {
    if (calls_-- == 0) throw Stop();
  }
  int calls_;
};

TEST(QuantizeModel, AnExceptionOfProgressPassesUnchangedAndLeavesNothing) {
  const TempFolder temp;
  write_tiny_pipeline(temp.path() / "model");
  int stops = 0;
  for (int calls = 0;; ++calls) {
    StoppingProgress progress(calls);
    try {
      quantize_model(temp / "model", temp / "deep/out", options(), progress);
      break;
    } catch (const Stop&) {
      ++stops;
    }
    ASSERT_EQ(names_in(temp.path()), Names{"model"}) << "stopped at call " << calls;
  }
  EXPECT_GT(stops, 10);
  EXPECT_EQ(names_in(temp / "deep"), Names{"out"});
}

TEST(QuantizeModel, InputAndOutputMayNotOverlap) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  fs::create_directory_symlink(temp / "model", temp / "link");
  fs::create_directory(temp / "elsewhere");
  fs::create_directory_symlink(temp / "model", temp / "elsewhere/into");
  const auto before = read_tree(temp / "model");
  for (const char* output : {"model", "model/", "model/out", "model/a/b", "elsewhere/../model/out",
                             "link", "link/out", "elsewhere/into/out", "elsewhere/into/a/b"}) {
    for (const char* model : {"model", "link", "model/."}) {
      QuantizeOptions with = options();
      with.overwrite = true;
      EXPECT_EQ(failure(temp / model, temp / output, with).code(), ErrorCode::kConfiguration)
          << model << " -> " << output;
    }
  }
  // The model inside the output.
  EXPECT_EQ(failure(temp / "model", temp.path().string(), options()).code(),
            ErrorCode::kConfiguration);
  EXPECT_EQ(read_tree(temp / "model"), before);
  EXPECT_EQ(names_in(temp.path()), (Names{"elsewhere", "link", "model"}));
}

TEST(QuantizeModel, NamesThatOnlyBeginAlikeDoNotOverlap) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  EXPECT_NO_THROW(quantize(temp / "model", temp / "model-int4", options()));
  EXPECT_NO_THROW(quantize(temp / "model", temp / "..int4", options()));
}

TEST(QuantizeModel, AnArtefactMayLieBesideTheFileItWasMadeFrom) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model");
  const std::string file = temp / "model/diffusion_pytorch_model.safetensors";
  QuantizeOptions with = options();
  with.plan.modality = "image";
  quantize(file, temp / "model/int4", with);
  EXPECT_NO_THROW(Artefact::open(temp / "model/int4"));
  EXPECT_EQ(failure(file, file, with).code(), ErrorCode::kConfiguration);
}

TEST(QuantizeModel, KeptComponentsOfAPipelineAreCopiedBitForBit) {
  const TempFolder temp;
  write_tiny_pipeline(temp.path() / "model");
  const QuantizeReport report = quantize(temp / "model", temp / "out", options());
  EXPECT_EQ(report.components, std::vector<std::string>{"unet"});
  const auto source = read_tree(temp / "model");
  const auto output = read_tree(temp / "out");
  for (const auto& [name, bytes] : source) {
    if (name == "unet/diffusion_pytorch_model.safetensors") {
      EXPECT_FALSE(output.contains(name));
      continue;
    }
    ASSERT_TRUE(output.contains(name)) << name;
    EXPECT_EQ(output.at(name), bytes) << name;
  }
  EXPECT_TRUE(output.contains("unet/weights.parquet"));
  EXPECT_EQ(output.size(), source.size() + 1);  // the manifest
  EXPECT_NO_THROW(Artefact::open(temp / "out").verify([] {}));
}

TEST(QuantizeModel, SeveralComponentsCanBeQuantized) {
  const TempFolder temp;
  write_tiny_pipeline(temp.path() / "model");
  QuantizeOptions with = options(8);
  with.plan.components = {"unet", "vae"};
  const QuantizeReport report = quantize(temp / "model", temp / "out", with);
  EXPECT_EQ(report.components, (std::vector<std::string>{"unet", "vae"}));
  const Artefact artefact = Artefact::open(temp / "out");
  EXPECT_EQ(artefact.manifest().components[1].name, "vae");
  EXPECT_EQ(artefact.tensors(1).size(), 2U);
}

TEST(QuantizeModel, ALargeComponentBecomesPartsThatReadTheSame) {
  const TempFolder temp;
  std::vector<TinyTensor> tensors;
  for (uint32_t i = 0; i < 3; ++i) {
    tensors.push_back(f32_tensor("b" + std::to_string(i) + ".weight", {1100, 1024}, i));
  }
  write_tiny_model(temp.path() / "model", tensors);
  QuantizeOptions with = options(8);
  with.plan.method = Method::kRtn;
  quantize(temp / "model", temp / "one", with);
  with.part_size = 1U << 20;
  quantize(temp / "model", temp / "parts", with);
  EXPECT_EQ(names_in(temp / "parts/weights.parquet").size(), 3U);
  const Artefact one = Artefact::open(temp / "one");
  const Artefact parts = Artefact::open(temp / "parts");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(one.read(0, i).chunks[0].codes, parts.read(0, i).chunks[0].codes);
  }
}

TEST(QuantizeModel, ARowThatDoesNotFitTheMemoryIsAConfigurationError) {
  const TempFolder temp;
  write_tiny_model(temp.path() / "model",
                   {f32_tensor("w.weight", {1, 3'000'000}, std::vector<float>(3'000'000, 0.5F)),
                    f32_tensor("block.weight", {64, 64}, 1)});
  QuantizeOptions with = options(8);
  with.max_memory_mb = 64;
  with.num_threads = 4;
  const Error error = failure(temp / "model", temp / "out", with);
  EXPECT_EQ(error.code(), ErrorCode::kConfiguration);
  EXPECT_NE(error.hint().find("max_memory_mb"), std::string::npos);
  EXPECT_EQ(names_in(temp.path()), Names{"model"});
  with.num_threads = 1;
  EXPECT_NO_THROW(quantize(temp / "model", temp / "out", with));
}

TEST(QuantizeModel, OptionsAreCheckedBeforeAnythingElse) {
  QuantizeOptions with = options();
  with.max_memory_mb = 63;
  EXPECT_EQ(failure("absent", "out", with).code(), ErrorCode::kConfiguration);
  with = options();
  with.part_size = 0;
  EXPECT_EQ(failure("absent", "out", with).code(), ErrorCode::kConfiguration);
  with = options(3);
  EXPECT_EQ(failure("absent", "out", with).code(), ErrorCode::kConfiguration);
  EXPECT_EQ(failure("absent", "out", options()).code(), ErrorCode::kModelNotFound);
}

TEST(QuantizeModel, TensorsOfEveryDtypeAreCarried) {
  const TempFolder temp;
  std::vector<TinyTensor> tensors = testing::tiny_tensors();
  for (int i = 0; i <= static_cast<int>(DType::kF6E3M2); ++i) {
    const auto dtype = static_cast<DType>(i);
    tensors.push_back(
        raw_tensor("kept." + std::to_string(i) + ".bias", dtype, {4}));  // whole bytes for all
    tensors.push_back(raw_tensor("empty." + std::to_string(i), dtype, {2, 0, 3}));
  }
  tensors.push_back(raw_tensor("scalar", DType::kI64, {}));
  write_tiny_model(temp.path() / "model", tensors);
  quantize(temp / "model", temp / "out", options());
  const Artefact artefact = Artefact::open(temp / "out");
  ASSERT_EQ(artefact.tensors(0).size(), tensors.size());
  std::map<std::string, std::string> stored;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const QuantizedTensor tensor = artefact.read(0, i);
    if (tensor.info.encoding != Encoding::kCopy) continue;
    stored[tensor.info.name] = {tensor.chunks[0].codes.begin(), tensor.chunks[0].codes.end()};
  }
  EXPECT_EQ(stored.size(), tensors.size() - 3);
  for (const TinyTensor& tensor : tensors) {
    if (!stored.contains(tensor.name)) continue;
    EXPECT_EQ(stored[tensor.name], tensor.bytes) << tensor.name;
  }
}

}  // namespace
}  // namespace arrow_quant
