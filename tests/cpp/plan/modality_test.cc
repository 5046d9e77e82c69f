// The modality of well-known models, by each rule in turn.
#include "plan/modality.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "plan/model_builder.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::component_of;
using testing::expect_error;
using testing::pipeline_of;
using testing::tensor_of;

Modality detect(const ModelDirectory& model) { return detect_modality(model, {0}, ""); }

std::string config_of(const std::string& class_name) {
  return "{\"_class_name\":\"" + class_name + "\"}";
}

struct Known {
  const char* name;
  const char* modality;
};

class ComponentClass : public ::testing::TestWithParam<Known> {};

TEST_P(ComponentClass, TellsTheModality) {
  const Modality modality = detect(component_of({}, config_of(GetParam().name)));
  EXPECT_EQ(modality.name, GetParam().modality);
  EXPECT_EQ(modality.reason, std::string("component class ") + GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(
    Diffusers, ComponentClass,
    ::testing::Values(
        Known{"UNet2DModel", "image"}, Known{"UNet2DConditionModel", "image"},
        Known{"FluxTransformer2DModel", "image"}, Known{"DiTTransformer2DModel", "image"},
        Known{"Transformer2DModel", "image"}, Known{"PixArtTransformer2DModel", "image"},
        Known{"SD3Transformer2DModel", "image"}, Known{"SanaTransformer2DModel", "image"},
        Known{"QwenImageTransformer2DModel", "image"}, Known{"AutoencoderKL", "image"},
        Known{"StableAudioDiTModel", "audio"}, Known{"AudioLDM2UNet2DConditionModel", "audio"},
        Known{"UNet1DModel", "audio"}),
    [](const auto& param) { return param.param.name; });

class Architecture : public ::testing::TestWithParam<Known> {};

TEST_P(Architecture, TellsTheModality) {
  const Modality modality =
      detect(component_of({}, std::string("{\"architectures\":[\"") + GetParam().name + "\"]}"));
  EXPECT_EQ(modality.name, GetParam().modality);
  EXPECT_EQ(modality.reason, std::string("architecture ") + GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(Transformers, Architecture,
                         ::testing::Values(Known{"LLaDAModelLM", "text"},
                                           Known{"LLaDAMoEModelLM", "text"},
                                           Known{"DreamModel", "text"}, Known{"MDLM", "text"},
                                           Known{"BertForMaskedLM", "text"}),
                         [](const auto& param) { return param.param.name; });

class PipelineClass : public ::testing::TestWithParam<Known> {};

TEST_P(PipelineClass, ComesBeforeTheClassOfTheComponent) {
  // AudioLDM has the U-Net of Stable Diffusion.
  const Modality modality =
      detect(pipeline_of(GetParam().name, {{"unet", config_of("UNet2DConditionModel")}}));
  EXPECT_EQ(modality.name, GetParam().modality);
  EXPECT_EQ(modality.reason, std::string("pipeline class ") + GetParam().name);
}

INSTANTIATE_TEST_SUITE_P(
    Diffusers, PipelineClass,
    ::testing::Values(Known{"StableDiffusionPipeline", "image"},
                      Known{"StableDiffusionXLPipeline", "image"},
                      Known{"StableDiffusion3Pipeline", "image"}, Known{"FluxPipeline", "image"},
                      Known{"DiTPipeline", "image"}, Known{"PixArtAlphaPipeline", "image"},
                      Known{"PixArtSigmaPipeline", "image"}, Known{"DDPMPipeline", "image"},
                      Known{"StableAudioPipeline", "audio"}, Known{"AudioLDMPipeline", "audio"},
                      Known{"AudioLDM2Pipeline", "audio"}, Known{"MusicLDMPipeline", "audio"},
                      Known{"AudioDiffusionPipeline", "audio"},
                      Known{"DanceDiffusionPipeline", "audio"}),
    [](const auto& param) { return param.param.name; });

TEST(Modality, AnUnknownPipelineClassFallsBackToItsDenoiserNotToItsTextEncoder) {
  const ModelDirectory model =
      pipeline_of("NewPipeline", {{"text_encoder", R"({"architectures":["Gemma2ForCausalLM"]})"},
                                  {"transformer", config_of("SanaTransformer2DModel")}});
  EXPECT_EQ(detect_modality(model, {1}, "").name, "image");
}

TEST(Modality, CoderInTheNameMakesATextClassACodeModel) {
  const std::string dream = R"({"architectures":["DreamModel"])";
  const Modality by_config =
      detect(component_of({}, dream + R"(,"_name_or_path":"apple/DiffuCoder-7B-Base"})"));
  EXPECT_EQ(by_config.name, "code");
  EXPECT_EQ(by_config.reason, "architecture DreamModel and 'coder' in the model's name");
  ModelDirectory by_folder = component_of({}, dream + "}");
  by_folder.path = "/models/Dream-Coder-v0/";
  EXPECT_EQ(detect(by_folder).name, "code");
  EXPECT_EQ(detect(component_of({}, R"({"architectures":["DiffuCoderModel"]})")).name, "code");
}

TEST(Modality, AnEncoderADecoderAndAVocoderAreNoCoders) {
  for (const char* name : {"/models/decoder", "/models/text-encoder", "/models/vocoder"}) {
    ModelDirectory model = component_of({}, R"({"architectures":["LLaDAModelLM"]})");
    model.path = name;
    EXPECT_EQ(detect(model).name, "text") << name;
  }
}

TEST(Modality, StoredMetadataComesFirst) {
  ModelDirectory model = component_of({}, R"({"_class_name":"UNet2DModel","modality":"text"})");
  EXPECT_EQ(detect(model).reason, "'modality' in config.json");
  EXPECT_EQ(detect(model).name, "text");
  model.metadata_json = R"({"modality":"code"})";
  EXPECT_EQ(detect(model).reason, "'modality' in metadata.json");
  EXPECT_EQ(detect(model).name, "code");
  model.components[0].metadata["modality"] = "audio";
  EXPECT_EQ(detect(model).reason, "safetensors metadata 'modality'");
  EXPECT_EQ(detect(model).name, "audio");
}

TEST(Modality, AStoredValueThatIsNoneOfTheFourIsPassedOver) {
  ModelDirectory model = component_of({}, R"({"_class_name":"UNet2DModel","modality":"video"})");
  model.components[0].metadata["modality"] = "";
  model.metadata_json = R"({"modality":3})";
  EXPECT_EQ(detect(model).name, "image");
}

TEST(Modality, PublishedNamesTellWhereNoClassDoes) {
  const std::vector<std::pair<std::string, std::string>> known = {
      {"/m/LLaDA-8B-Base", "text"},          {"/m/Dream-v0-Instruct-7B", "text"},
      {"/m/DiffuCoder-7B-Base", "code"},     {"/m/audioldm2", "audio"},
      {"/m/stable-audio-open-1.0", "audio"}, {"/m/diffwave-22khz.safetensors", "audio"},
      {"/m/stable-diffusion-v1-5", "image"}, {"/m/flux1-dev.safetensors", "image"},
      {"/m/PixArt-XL-2/", "image"}};
  for (const auto& [path, expected] : known) {
    ModelDirectory model = component_of({});
    model.path = path;
    EXPECT_EQ(detect(model).name, expected) << path;
  }
  EXPECT_EQ(detect(component_of({}, R"({"_name_or_path":"GSAI-ML/LLaDA-8B"})")).reason,
            "model name gsai-ml/llada-8b");
}

TEST(Modality, TensorNamesTellLast) {
  const std::vector<std::pair<std::string, std::string>> known = {
      {"down_blocks.0.resnets.0.conv1.weight", "image"},           // diffusers U-Nets
      {"model.diffusion_model.input_blocks.0.0.weight", "image"},  // Stable Diffusion, one file
      {"double_blocks.0.img_attn.qkv.weight", "image"},            // FLUX, one file
      {"single_transformer_blocks.0.attn.to_q.weight", "image"},   // FLUX, diffusers
      {"pos_embed.proj.weight", "image"},                          // DiT, PixArt, SD3
      {"model.transformer.wte.weight", "text"},                    // LLaDA
      {"model.embed_tokens.weight", "text"},                       // Dream
      {"residual_layers.0.dilated_conv.weight", "audio"},          // DiffWave
      {"spectrogram_upsampler.conv1.weight", "audio"},
      {"diffusion_embedding.projection1.weight", "audio"}};
  for (const auto& [name, expected] : known) {
    const Modality modality = detect(component_of({tensor_of(name, {64, 64})}));
    EXPECT_EQ(modality.name, expected) << name;
    EXPECT_EQ(modality.reason, "tensor name " + name);
  }
}

TEST(Modality, TensorNamesThatDisagreeAreAmbiguous) {
  const ModelDirectory model = component_of({tensor_of("down_blocks.0.conv.weight", {64, 64}),
                                             tensor_of("model.embed_tokens.weight", {64, 64})});
  expect_error(ErrorCode::kConfiguration,
               {"ambiguous: tensor names fit image, text", "--modality image"},
               [&] { detect(model); });
}

TEST(Modality, WhereNothingFiresTheErrorSaysWhatToPass) {
  expect_error(ErrorCode::kConfiguration,
               {"cannot be told", "modality='text', 'code', 'image' or 'audio'"},
               [] { detect(component_of({tensor_of("layer.weight", {64, 64})})); });
}

TEST(Modality, TheUsersWordWinsAndIsChecked) {
  const ModelDirectory model = component_of({}, config_of("UNet2DModel"));
  EXPECT_EQ(detect_modality(model, {0}, "audio").name, "audio");
  EXPECT_EQ(detect_modality(model, {0}, "audio").reason, "set by the user");
  expect_error(ErrorCode::kConfiguration,
               {"Invalid modality: video. Must be text, code, image, or audio."},
               [&] { detect_modality(model, {0}, "video"); });
}

TEST(Modality, ConfigsOfAnyShapeAreSurvived) {
  for (const char* config :
       {"[]", "3", "null", "{\"architectures\":3}", "{\"architectures\":[1,null]}",
        "{\"architectures\":null}", "{\"_class_name\":[]}", "{\"_name_or_path\":7}"}) {
    expect_error(ErrorCode::kConfiguration, {"cannot be told"},
                 [&] { detect(component_of({}, config)); });
  }
  expect_error(ErrorCode::kMetadata, {"/models/some/config.json", "not valid JSON"},
               [] { detect(component_of({}, "{")); });
}

}  // namespace
}  // namespace arrow_quant
