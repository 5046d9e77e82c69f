#include "plan/plan.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "plan/model_builder.h"
#include "read/model_directory.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::component_of;
using testing::expect_error;
using testing::pipeline_of;
using testing::tensor_of;

constexpr const char* kConfig = "{\"_class_name\":\"UNet2DModel\"}";

void refuse(const ModelDirectory& model, const PlanOptions& options,
            std::initializer_list<std::string> words) {
  expect_error(ErrorCode::kConfiguration, words, [&] { make_plan(model, options); });
}

// The plan of one weight of this shape.
TensorPlan plan_of(std::vector<uint64_t> shape, const PlanOptions& options) {
  const ModelDirectory model = component_of({tensor_of("w.weight", std::move(shape))}, kConfig);
  return make_plan(model, options).components.at(0).tensors.at(0);
}

uint64_t bytes_of(std::vector<uint64_t> shape, const PlanOptions& options,
                  DType dtype = DType::kF32) {
  const ModelDirectory model =
      component_of({tensor_of("w.weight", std::move(shape), dtype)}, kConfig);
  return make_plan(model, options).components.at(0).planned_bytes;
}

TEST(PlanOptions, TheMessageForABitWidthIsTheGuides) {
  try {
    check_plan_options({.bit_width = 3});
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "Invalid bit_width: 3. Must be 2, 4, or 8.");
    EXPECT_EQ(error.code(), ErrorCode::kConfiguration);
  }
  for (const int bits : {0, 1, 5, 6, 7, 9, 16, -4, 1 << 30}) {
    EXPECT_THROW(check_plan_options({.bit_width = bits}), Error) << bits;
  }
  for (const int bits : {2, 4, 8}) EXPECT_NO_THROW(check_plan_options({.bit_width = bits}));
}

TEST(PlanOptions, GroupSizesAreMultiplesOfEight) {
  for (const int group : {8, 16, 32, 64, 128, 256, 65536}) {
    EXPECT_NO_THROW(check_plan_options({.group_size = group})) << group;
  }
  for (const int group : {0, 3, -1, -128, 4, 12, 100, 65544, 1 << 30}) {
    expect_error(ErrorCode::kConfiguration, {"Invalid group_size: " + std::to_string(group)},
                 [&] { check_plan_options({.group_size = group}); });
  }
}

TEST(PlanOptions, TheEncodingMustFit) {
  using enum ParamEncodingChoice;
  expect_error(ErrorCode::kConfiguration, {"multiple of 32 for two_level"},
               [] { check_plan_options({.group_size = 40, .param_encoding = kTwoLevel}); });
  expect_error(ErrorCode::kConfiguration, {"'row' needs bit_width 8, found 4"},
               [] { check_plan_options({.param_encoding = kRow}); });
  EXPECT_NO_THROW(check_plan_options({.bit_width = 8, .param_encoding = kRow}));
  EXPECT_NO_THROW(check_plan_options({.group_size = 40, .param_encoding = kFp16}));
}

TEST(Plan, AnAllocationDecidesWhereNoRuleDoes) {
  const ModelDirectory model =
      component_of({tensor_of("a.weight", {64, 128}), tensor_of("b.weight", {64, 128}),
                    tensor_of("c.weight", {64, 128}), tensor_of("d.weight", {64, 128}),
                    tensor_of("e.weight", {64, 128})},
                   kConfig);
  const PlanOptions options{.bit_width = 2,
                            .layer_rules = {{"b", 4}},
                            .allocation = {{"", "a.weight", 8, 0, "matters"},
                                           {"", "b.weight", 8, 0, "matters"},
                                           {"", "c.weight", 0, 0, "matters most"},
                                           {"", "d.weight", 2, 32, "a little"}}};
  Plan plan = make_plan(model, options);
  const std::vector<TensorPlan>& tensors = plan.components.at(0).tensors;
  EXPECT_EQ(tensors[0].spec.bit_width, 8);
  EXPECT_EQ(tensors[0].spec.param_encoding, ParamEncoding::kRow);
  EXPECT_EQ(tensors[0].reason, "matters");
  EXPECT_EQ(tensors[1].spec.bit_width, 4);
  EXPECT_EQ(tensors[1].reason, "rule 'b'");
  EXPECT_EQ(tensors[2].encoding, Encoding::kCopy);
  EXPECT_EQ(tensors[2].reason, "matters most");
  EXPECT_EQ(tensors[3].spec.bit_width, 2);
  EXPECT_EQ(tensors[3].spec.group_size, 32);
  EXPECT_EQ(tensors[4].spec.bit_width, 2);
  EXPECT_EQ(tensors[4].spec.group_size, 128);
  // The fallback leaves alone what was decided.
  EXPECT_EQ(raise_bits(model, options, {true, true, true, true, true}, plan), 1);
  EXPECT_EQ(tensors[4].spec.bit_width, 4);
  EXPECT_EQ(tensors[3].spec.bit_width, 2);
  EXPECT_EQ(tensors[1].spec.bit_width, 4);
}

TEST(Plan, AnAllocationNamesTensorsOnceAndWithKnownWidths) {
  const ModelDirectory model = component_of({tensor_of("a.weight", {64, 128})}, kConfig);
  refuse(model, {.allocation = {{"", "a.weight", 3, 0, ""}}}, {"gives 3 bits"});
  refuse(model, {.allocation = {{"", "a.weight", 2, 0, ""}, {"", "a.weight", 4, 0, ""}}},
         {"twice"});
  refuse(model, {.allocation = {{"", "a.weight", 2, 12, ""}}}, {"Invalid group_size: 12"});
  refuse(model, {.allocation = {{"unet", "a.weight", 2, 0, ""}}},
         {"1 tensors that the model does not have"});
}

TEST(Plan, AutoIsTwoLevelForFewBitsAndRowForEight) {
  EXPECT_EQ(plan_of({64, 128}, {.bit_width = 2}).spec.param_encoding, ParamEncoding::kTwoLevel);
  EXPECT_EQ(plan_of({64, 128}, {.bit_width = 4}).spec.param_encoding, ParamEncoding::kTwoLevel);
  EXPECT_EQ(plan_of({64, 128}, {.bit_width = 8}).spec.param_encoding, ParamEncoding::kRow);
}

TEST(Plan, AutoIsFp16ForFewInputsAndOddGroups) {
  EXPECT_EQ(plan_of({64, 127}, {}).spec.param_encoding, ParamEncoding::kFp16);
  EXPECT_EQ(plan_of({64, 128}, {.group_size = 40}).spec.param_encoding, ParamEncoding::kFp16);
  EXPECT_EQ(plan_of({64, 32, 2, 2}, {}).spec.param_encoding, ParamEncoding::kTwoLevel);
}

TEST(Plan, AnEncodingThatIsAskedForIsUsed) {
  using enum ParamEncodingChoice;
  EXPECT_EQ(plan_of({64, 64}, {.param_encoding = kTwoLevel}).spec.param_encoding,
            ParamEncoding::kTwoLevel);
  EXPECT_EQ(plan_of({64, 256}, {.param_encoding = kFp16}).spec.param_encoding,
            ParamEncoding::kFp16);
  EXPECT_EQ(plan_of({64, 256}, {.bit_width = 8, .param_encoding = kFp16}).spec.param_encoding,
            ParamEncoding::kFp16);
}

TEST(Plan, ARuleWhoseBitsNeedOtherGroupsIsRefused) {
  // 40 is a size for int8 rows; 4 bits are two_level, whose groups are multiples of 32.
  const PlanOptions options{.bit_width = 8,
                            .group_size = 40,
                            .param_encoding = ParamEncodingChoice::kRow,
                            .layer_rules = {{"w", 4}}};
  refuse(component_of({tensor_of("w.weight", {64, 256})}, kConfig), options,
         {"tensor 'w.weight'", "group_size: 40", "multiple of 32"});
}

TEST(Plan, ARuleWithOtherBitsGetsAnEncodingThatFits) {
  using enum ParamEncodingChoice;
  PlanOptions options{.bit_width = 8, .param_encoding = kRow, .layer_rules = {{"w", 4}}};
  EXPECT_EQ(plan_of({64, 256}, options).spec.param_encoding, ParamEncoding::kTwoLevel);
  options = {.bit_width = 4, .param_encoding = kTwoLevel, .layer_rules = {{"w", 8}}};
  EXPECT_EQ(plan_of({64, 256}, options).spec.param_encoding, ParamEncoding::kRow);
}

TEST(Plan, PlannedBytesAreCodesParametersAndScales) {
  // two_level: codes, one byte per 32 weights, an fp16 scale per row.
  EXPECT_EQ(bytes_of({64, 256}, {.bit_width = 4}), 64 * (128 + 8 + 2));
  EXPECT_EQ(bytes_of({64, 256}, {.bit_width = 2}), 64 * (64 + 8 + 2));
  // A last group that is short has its parameters too; rows are whole bytes.
  EXPECT_EQ(bytes_of({64, 129}, {.bit_width = 2}), 64 * (33 + 5 + 2));
  // row: codes and an fp16 scale.
  EXPECT_EQ(bytes_of({64, 256}, {.bit_width = 8}), 64 * (256 + 2));
  // fp16: four bytes per group.
  EXPECT_EQ(bytes_of({64, 100}, {.bit_width = 4, .group_size = 64}), 64 * (50 + 2 * 4));
  // Convolutions are flattened to [out, rest].
  EXPECT_EQ(bytes_of({64, 32, 3, 3}, {.bit_width = 4}), 64 * (144 + 9 + 2));
}

TEST(Plan, BytesOfAModelAreThoseOfItsPartsAndCopiesCountInFull) {
  const ModelDirectory model =
      component_of({tensor_of("conv_in.weight", {64, 4, 3, 3}, DType::kBF16),
                    tensor_of("a.weight", {64, 256}, DType::kBF16),
                    tensor_of("a.bias", {64}, DType::kBF16), tensor_of("e.weight", {0, 9})},
                   kConfig);
  const Plan plan = make_plan(model, {});
  EXPECT_EQ(plan.components.at(0).planned_bytes, 64 * 36 * 2 + 64 * (128 + 8 + 2) + 64 * 2);
}

TEST(Plan, AStackOfExpertsHasARowForEachExpertAndOutput) {
  const ModelDirectory model =
      component_of({tensor_of("layers.0.mlp.experts.gate_up_proj", {8, 128, 256}),
                    tensor_of("layers.0.mlp.experts.down_proj", {8, 256, 64})},
                   kConfig);
  const ComponentPlan plan = make_plan(model, {.bit_width = 8}).components.at(0);
  for (const TensorPlan& tensor : plan.tensors) {
    EXPECT_EQ(tensor.row_dimensions, 2);
    EXPECT_EQ(tensor.role, "weights of experts");
    EXPECT_EQ(tensor.known_from, "name");
  }
  EXPECT_EQ(plan.planned_bytes, 8 * 128 * (256 + 2) + 8 * 256 * (64 + 2));
  // Parameters fit the inputs of one expert.
  const Plan fine = make_plan(model, {.bit_width = 4});
  EXPECT_EQ(fine.components.at(0).tensors[0].spec.param_encoding, ParamEncoding::kTwoLevel);
  EXPECT_EQ(fine.components.at(0).tensors[1].spec.param_encoding, ParamEncoding::kFp16);
}

TEST(Plan, AStackWithItsInputsFirstIsToldByTheShapesOfBothProjections) {
  const ModelDirectory model = component_of({tensor_of("mlp.experts.gate_up_proj", {4, 256, 128}),
                                             tensor_of("mlp.experts.down_proj", {4, 64, 256})},
                                            kConfig);
  const Plan plan = make_plan(model, {});
  for (const TensorPlan& tensor : plan.components.at(0).tensors) {
    EXPECT_EQ(tensor.row_dimensions, 1);
    EXPECT_EQ(tensor.role, "weights of experts, inputs first");
  }
}

TEST(Plan, ExpertsWithTensorsOfTheirOwnAndOtherWeightsAreNoStacks) {
  const ModelDirectory model = component_of({tensor_of("experts.0.conv.weight", {64, 64, 3}),
                                             tensor_of("experts.1.up_proj.weight", {128, 64}),
                                             tensor_of("blocks.0.conv.weight", {64, 64, 3}),
                                             tensor_of("mlp.experts.gate_up_proj_bias", {64, 128})},
                                            kConfig);
  const std::vector<TensorPlan> tensors = make_plan(model, {}).components.at(0).tensors;
  for (const TensorPlan& tensor : tensors) EXPECT_EQ(tensor.row_dimensions, 1);
  EXPECT_EQ(tensors[0].role, "convolution weight");
  EXPECT_EQ(tensors[3].reason, "kept: bias");
}

TEST(Plan, AKnownRoleSaysHowManyDimensionsMakeTheRows) {
  const ModelDirectory model =
      component_of({tensor_of("moe.w1", {4, 64, 128}), tensor_of("moe.experts.w2", {4, 64, 128}),
                    tensor_of("moe.w3", {64, 128})},
                   kConfig);
  const PlanOptions options{.roles = {{"", "moe.w1", "weights of experts", true, "class", 2},
                                      {"", "moe.experts.w2", "convolution", true, "class", 1},
                                      {"", "moe.w3", "weights of experts", true, "class", 2}}};
  const std::vector<TensorPlan> tensors = make_plan(model, options).components.at(0).tensors;
  EXPECT_EQ(tensors[0].row_dimensions, 2);
  EXPECT_EQ(tensors[1].row_dimensions, 1);
  EXPECT_EQ(tensors[2].row_dimensions, 1);  // too few dimensions for it
}

TEST(Plan, SaysWhatHappensToEveryTensorAndWhy) {
  const ModelDirectory model =
      component_of({tensor_of("conv_in.weight", {64, 4, 3, 3}), tensor_of("a.weight", {64, 64}),
                    tensor_of("c.weight", {64, 8, 3, 3}), tensor_of("a.bias", {64}),
                    tensor_of("b.to_q.weight", {64, 64}), tensor_of("b.to_k.weight", {64, 64})},
                   kConfig);
  const Plan plan = make_plan(model, {.layer_rules = {{"*.to_q", 8}, {"*.to_k", 0}}});
  EXPECT_EQ(plan.modality, "image");
  EXPECT_EQ(plan.modality_reason, "component class UNet2DModel");
  const std::vector<TensorPlan>& tensors = plan.components.at(0).tensors;
  ASSERT_EQ(tensors.size(), 6U);
  const std::vector<std::pair<Encoding, std::string>> expected = {
      {Encoding::kCopy, "kept: first convolution"}, {Encoding::kAffine, "linear weight"},
      {Encoding::kAffine, "convolution weight"},    {Encoding::kCopy, "kept: bias, norm or scalar"},
      {Encoding::kAffine, "rule '*.to_q'"},         {Encoding::kCopy, "rule '*.to_k'"}};
  for (uint32_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(tensors[i].tensor, i);
    EXPECT_EQ(tensors[i].encoding, expected[i].first) << i;
    EXPECT_EQ(tensors[i].reason, expected[i].second) << i;
  }
  EXPECT_EQ(tensors[4].spec.bit_width, 8);
  EXPECT_EQ(tensors[1].spec.bit_width, 4);
}

TEST(Plan, ARuleQuantizesWhatIsKeptByDefault) {
  const ModelDirectory model = component_of(
      {tensor_of("conv_in.weight", {64, 4, 3, 3}), tensor_of("tiny.weight", {2, 2})}, kConfig);
  const Plan plan = make_plan(model, {.layer_rules = {{"conv_in", 8}, {"tiny", 2}}});
  EXPECT_EQ(plan.components[0].tensors[0].encoding, Encoding::kAffine);
  EXPECT_EQ(plan.components[0].tensors[1].spec.bit_width, 2);
}

TEST(Plan, ARuleForAWholeBlockPassesOverItsBiasesAndSaysSo) {
  const ModelDirectory model = component_of(
      {tensor_of("mid.to_q.weight", {64, 64}), tensor_of("mid.to_q.bias", {64})}, kConfig);
  const Plan plan = make_plan(model, {.layer_rules = {{"mid.*", 8}}});
  const auto& tensors = plan.components[0].tensors;
  EXPECT_EQ(tensors[0].spec.bit_width, 8);
  EXPECT_EQ(tensors[1].encoding, Encoding::kCopy);
  EXPECT_EQ(tensors[1].reason, "kept: bias, norm or scalar; rule 'mid.*' cannot apply");
}

TEST(Plan, C57BitsForABiasOrAScalarAreRefused) {
  const ModelDirectory model =
      component_of({tensor_of("a.weight", {64, 64}), tensor_of("a.bias", {64}),
                    tensor_of("scalar", {}), tensor_of("six", {2, 2, 2, 2, 2, 32})},
                   kConfig);
  refuse(model, {.layer_rules = {{"*.bias", 4}}},
         {"tensor 'a.bias'", "'*.bias=4' asks for bits", "dtype F32 and 1 dimensions"});
  refuse(model, {.layer_rules = {{"scalar", 8}}}, {"tensor 'scalar'", "0 dimensions"});
  refuse(model, {.layer_rules = {{"six", 8}}}, {"tensor 'six'", "6 dimensions"});
}

TEST(Plan, A30DtypesThatCannotBeQuantizedAreKeptOrRefused) {
  for (const DType dtype : {DType::kBool, DType::kU8, DType::kI64, DType::kC64, DType::kF4,
                            DType::kF6E3M2, DType::kF8E8M0}) {
    const ModelDirectory model = component_of(
        {tensor_of("a.weight", {64, 64}), tensor_of("b.weight", {64, 64}, dtype)}, kConfig);
    const std::string name(dtype_info(dtype).name);
    EXPECT_EQ(make_plan(model, {}).components[0].tensors[1].reason, "kept: dtype " + name);
    refuse(model, {.layer_rules = {{"b", 4}}}, {"tensor 'b.weight'", "dtype " + name});
  }
}

TEST(Plan, A26BitsForAnEmptyTensorAreRefused) {
  const ModelDirectory model =
      component_of({tensor_of("a.weight", {64, 64}), tensor_of("e.weight", {0, 64})}, kConfig);
  EXPECT_EQ(make_plan(model, {}).components[0].tensors[1].encoding, Encoding::kCopy);
  refuse(model, {.layer_rules = {{"e", 4}}}, {"tensor 'e.weight'", "no elements"});
}

TEST(Plan, D70ARuleWithoutAMatchIsRefused) {
  const ModelDirectory model = component_of({tensor_of("attn.to_q.weight", {64, 64})}, kConfig);
  refuse(model, {.layer_rules = {{"attn.to_w", 8}}},
         {"matches no tensor", "Did you mean 'attn.to_q'?"});
}

TEST(Plan, ThePipelinesDenoiserIsQuantized) {
  for (const char* name : {"unet", "transformer", "prior"}) {
    const ModelDirectory model =
        pipeline_of("StableDiffusionPipeline", {{"text_encoder", ""}, {name, ""}, {"vae", ""}});
    const Plan plan = make_plan(model, {});
    ASSERT_EQ(plan.components.size(), 1U);
    EXPECT_EQ(plan.components[0].component, 1U);
  }
}

TEST(Plan, ComponentsMayBeNamed) {
  const ModelDirectory model =
      pipeline_of("StableDiffusionPipeline", {{"text_encoder", ""}, {"unet", ""}, {"vae", ""}});
  const Plan plan = make_plan(model, {.components = {"vae", "text_encoder"}});
  ASSERT_EQ(plan.components.size(), 2U);
  EXPECT_EQ(plan.components[0].component, 0U);
  EXPECT_EQ(plan.components[1].component, 2U);
  refuse(model, {.components = {"unett"}},
         {"no component 'unett'", "Components with weights: text_encoder, unet, vae."});
}

TEST(Plan, APipelineWithoutAKnownDenoiserAsks) {
  refuse(pipeline_of("NewPipeline", {{"backbone", ""}, {"vae", ""}}), {},
         {"no component of this pipeline is a known denoiser", "It has: backbone, vae."});
}

TEST(Plan, ASingleComponentNeedsNoName) {
  const ModelDirectory model = component_of({tensor_of("a.weight", {64, 64})}, kConfig);
  refuse(model, {.components = {"unet"}}, {"single component: leave components empty"});
}

TEST(Plan, AModelOfWhichNothingWouldBeQuantizedIsRefused) {
  refuse(component_of({tensor_of("a.bias", {64}), tensor_of("conv_in.weight", {64, 64})}, kConfig),
         {}, {"no tensor of this model would be quantized", "--layer-rule"});
}

TEST(Plan, TheModalityIsThatOfTheDenoiserNotOfTheTextEncoder) {
  const ModelDirectory model =
      pipeline_of("NewPipeline", {{"text_encoder", R"({"architectures":["Gemma2ForCausalLM"]})"},
                                  {"transformer", R"({"_class_name":"SanaTransformer2DModel"})"}});
  EXPECT_EQ(make_plan(model, {}).modality, "image");
}

// Trained models that this project did not make; they are not part of the repository.
class RealModels : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto root = std::filesystem::path(__FILE__).parent_path() / "../../../../shared";
    folder_ = (root / "real-models").lexically_normal();
    if (!std::filesystem::is_directory(folder_)) GTEST_SKIP() << "no real models here";
  }
  std::map<std::string, TensorPlan> plan_by_name(const std::string& name) const {
    const ModelDirectory model = open_model((folder_ / name).string());
    const Plan plan = make_plan(model, {.modality = "image"});
    std::map<std::string, TensorPlan> tensors;
    for (const TensorPlan& tensor : plan.components.at(0).tensors) {
      tensors[model.components[0].tensors[tensor.tensor].name] = tensor;
    }
    return tensors;
  }

  std::filesystem::path folder_;
};

TEST_F(RealModels, NormsOverImagesAndTimeTablesAreKept) {
  auto tensors = plan_by_name("ddpm-mnist/model.safetensors");
  EXPECT_EQ(tensors.at("network.time_embed.weight").reason, "kept: time embedding");
  EXPECT_EQ(tensors.at("network.b1.1.ln.weight").reason, "kept: norm");
  EXPECT_EQ(tensors.at("network.b1.1.ln.bias").reason, "kept: bias");
  EXPECT_EQ(tensors.at("network.b2.0.conv1.weight").encoding, Encoding::kAffine);
}

TEST_F(RealModels, AttentionOfATimeSeriesModelIsQuantized) {
  auto tensors = plan_by_name("csdi-physionet/model.safetensors");
  const std::string layer = "diffmodel.residual_layers.0.";
  EXPECT_EQ(tensors.at(layer + "time_layer.layers.0.self_attn.in_proj_weight").encoding,
            Encoding::kAffine);
  EXPECT_EQ(tensors.at(layer + "mid_projection.weight").encoding, Encoding::kAffine);
  EXPECT_EQ(tensors.at("diffmodel.output_projection1.weight").reason, "kept: output head");
  EXPECT_EQ(tensors.at("diffmodel.diffusion_embedding.projection1.weight").reason,
            "kept: time embedding");
}

TEST_F(RealModels, AnAutoencoderOfNumberedLayersIsPlanned) {
  auto tensors = plan_by_name("taef2-vae/decoder.safetensors");
  EXPECT_EQ(tensors.at("3.conv.0.weight").reason, "convolution weight");
}

}  // namespace
}  // namespace arrow_quant
