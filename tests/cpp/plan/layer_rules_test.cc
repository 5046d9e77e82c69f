// What is kept by default, and what rules of the user change.
#include "plan/layer_rules.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "plan/model_builder.h"
#include "support/expect_error.h"

namespace arrow_quant {
namespace {

using testing::expect_error;
using testing::tensor_of;

std::string reason(const std::string& name, std::vector<uint64_t> shape = {128, 128},
                   DType dtype = DType::kF32) {
  const NamedRole role = named_role(tensor_of(name, std::move(shape), dtype));
  return role.quantize ? "quantized" : role.role;
}

TEST(Glob, StarMatchesAnythingDotsIncluded) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("*.to_q", "blocks.0.attn.to_q"));
  EXPECT_TRUE(glob_match("blocks.*.to_*", "blocks.0.attn.to_q"));
  EXPECT_TRUE(glob_match("a**b", "ab"));
  EXPECT_FALSE(glob_match("*.to_q", "blocks.0.attn.to_q.weight"));
  EXPECT_FALSE(glob_match("*.to_q", "to_q"));
  EXPECT_FALSE(glob_match("", "a"));
  EXPECT_TRUE(glob_match("", ""));
}

TEST(Glob, QuestionMarkIsOneCharacter) {
  EXPECT_TRUE(glob_match("to_?", "to_q"));
  EXPECT_FALSE(glob_match("to_?", "to_"));
  EXPECT_FALSE(glob_match("to_?", "to_qk"));
}

TEST(Glob, BracketsAreSets) {
  EXPECT_TRUE(glob_match("to_[qk]", "to_k"));
  EXPECT_FALSE(glob_match("to_[qk]", "to_v"));
  EXPECT_TRUE(glob_match("blocks.[0-3].*", "blocks.2.ff"));
  EXPECT_FALSE(glob_match("blocks.[0-3].*", "blocks.4.ff"));
  EXPECT_TRUE(glob_match("to_[!qk]", "to_v"));
  EXPECT_FALSE(glob_match("to_[!qk]", "to_q"));
  EXPECT_TRUE(glob_match("[]a]", "]"));
  EXPECT_TRUE(glob_match("[!]a]", "b"));
  EXPECT_TRUE(glob_match("[a-]", "-"));
}

TEST(Glob, ABracketThatIsNotClosedIsItself) {
  EXPECT_TRUE(glob_match("a[b", "a[b"));
  EXPECT_TRUE(glob_match("[", "["));
  EXPECT_FALSE(glob_match("[!", "x"));
  EXPECT_FALSE(glob_match("[]", "x"));
}

TEST(Glob, ManyStarsTakeNoExponentialTime) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "*a";
  EXPECT_FALSE(glob_match(pattern + "b", std::string(20'000, 'a')));
}

TEST(DefaultKeep, WeightsOfAttentionFeedForwardAndConvolutionsAreQuantized) {
  for (const char* name :
       {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.0.attentions.0.proj_in.weight", "down_blocks.0.attentions.0.proj_out.weight",
        "down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.time_emb_proj.weight",
        "transformer_blocks.0.ff.net.0.proj.weight", "transformer_blocks.0.attn.add_k_proj.weight",
        "single_transformer_blocks.0.proj_out.weight",
        "single_transformer_blocks.0.proj_mlp.weight", "transformer_blocks.0.norm1.linear.weight",
        "double_blocks.0.img_mod.lin.weight", "blocks.0.adaLN_modulation.1.weight",
        "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight",
        "model.transformer.blocks.0.ff_out.weight", "residual_layers.0.dilated_conv.weight",
        "residual_layers.0.output_projection.weight",
        "diffmodel.residual_layers.0.time_layer.layers.0.self_attn.in_proj_weight",
        "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"}) {
    EXPECT_EQ(reason(name), "quantized") << name;
  }
}

TEST(DefaultKeep, RolesAreSeenThroughWrappersAroundWrappers) {
  for (const char* wrapper : {"", "_orig_mod.", "net.", "diffusion_model.", "model.model.",
                              "module._orig_mod.model.diffusion_model."}) {
    EXPECT_EQ(reason(std::string(wrapper) + "final_layer.linear.weight"), "output head");
    EXPECT_EQ(reason(std::string(wrapper) + "blocks.0.to_q.weight"), "quantized");
  }
}

TEST(DefaultKeep, OtherNetworksOfAnAllInOneFileAreKept) {
  for (const auto& [name, role] : std::vector<std::pair<std::string, std::string>>{
           {"vae.decoder.up.0.weight", "autoencoder"},
           {"text_encoders.t5xxl.block.0.q.weight", "text encoder"},
           {"model_ema.blocks.0.to_q.weight", "average of the weights over training"}}) {
    EXPECT_EQ(reason(name), role);
  }
}

TEST(DefaultKeep, NormsAreKeptAtAnyRank) {
  EXPECT_EQ(reason("down_blocks.0.norm1.weight", {64}), "bias, norm or scalar");
  EXPECT_EQ(reason("network.b1.1.ln.weight", {10, 28, 28}), "norm");
  EXPECT_EQ(reason("network.b1.1.ln.bias", {10, 28, 28}), "bias");
  EXPECT_EQ(reason("layers.0.norm1.weight"), "norm");
  EXPECT_EQ(reason("layers.0.layer_norm.weight"), "norm");
  EXPECT_EQ(reason("transformer_blocks.0.scale_shift_table", {6, 1152}), "modulation table");
}

TEST(DefaultKeep, TimeEmbeddingsAreKept) {
  for (const char* name :
       {"time_embedding.linear_1.weight", "time_embed.0.weight",
        "model.diffusion_model.time_embed.2.weight",
        "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight",
        "adaln_single.emb.timestep_embedder.linear_1.weight", "adaln_single.linear.weight",
        "time_text_embed.timestep_embedder.linear_2.weight", "timestep_proj.0.weight",
        "time_step_proj.linear_1.weight", "t_embedder.mlp.0.weight", "time_in.in_layer.weight",
        "diffusion_embedding.projection1.weight", "network.time_embed.weight",
        "time_mlp.linear_1.weight", "sigma_map.mlp.0.weight"}) {
    EXPECT_EQ(reason(name), "time embedding") << name;
  }
}

TEST(DefaultKeep, OtherEmbeddingsAreKept) {
  for (const auto& [name, role] : std::vector<std::pair<std::string, std::string>>{
           {"pos_embed.pos_embed", "position or patch embedding"},
           {"pos_embed.proj.weight", "position or patch embedding"},
           {"patch_embed.proj.weight", "patch embedding"},
           {"class_embedding.weight", "class embedding"},
           {"label_emb.0.0.weight", "class embedding"},
           {"add_embedding.linear_1.weight", "conditioning embedding"},
           {"time_text_embed.text_embedder.linear_1.weight", "conditioning embedding"},
           {"caption_projection.linear_1.weight", "conditioning embedding"},
           {"guidance_in.in_layer.weight", "guidance embedding"},
           {"model.embed_tokens.weight", "embedding"},
           {"model.transformer.wte.weight", "embedding"},
           {"text_model.embeddings.token_embedding.weight", "embedding"},
           {"bert.embeddings.word_embeddings.weight", "embedding"},
           {"shared.weight", "embedding"},
           {"positional_embedding", "embedding"},
           {"register_tokens", "learned tokens"}}) {
    EXPECT_EQ(reason(name), role) << name;
  }
}

TEST(DefaultKeep, TheFirstAndTheLastLayerAreKept) {
  for (const char* name : {"conv_in.weight", "encoder.conv_in.weight", "preprocess_conv.weight",
                           "model.diffusion_model.input_blocks.0.0.weight"}) {
    EXPECT_EQ(reason(name), "first convolution") << name;
  }
  for (const char* name : {"proj_in.weight", "x_embedder.weight", "context_embedder.weight",
                           "img_in.weight", "txt_in.weight", "input_projection.weight"}) {
    EXPECT_EQ(reason(name), "first projection") << name;
  }
  for (const char* name :
       {"conv_out.weight", "decoder.conv_out.weight", "proj_out.weight", "proj_out_1.weight",
        "norm_out.linear.weight", "final_layer.linear.weight", "lm_head.weight",
        "model.transformer.ff_out.weight", "cls.predictions.decoder.weight",
        "model.diffusion_model.out.2.weight", "postprocess_conv.weight", "output_projection.weight",
        "diffmodel.output_projection1.weight", "output_layer.linear.weight",
        "proj_to_clip_embeddings.weight"}) {
    EXPECT_EQ(reason(name), "output head") << name;
  }
}

TEST(DefaultKeep, OtherNetworksInACheckpointOfOneFileAreKept) {
  EXPECT_EQ(reason("first_stage_model.decoder.mid.attn_1.q.weight"), "autoencoder");
  EXPECT_EQ(reason("cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"),
            "text encoder");
  EXPECT_EQ(reason("conditioner.embedders.0.transformer.layer.weight"), "text encoder");
}

TEST(DefaultKeep, SmallOddAndForeignTensorsAreKept) {
  EXPECT_EQ(reason("w.weight", {}), "bias, norm or scalar");
  EXPECT_EQ(reason("w.weight", {4096}), "bias, norm or scalar");
  EXPECT_EQ(reason("w.weight", {31, 33}), "fewer than 1024 elements");
  EXPECT_EQ(reason("w.weight", {0, 4096}), "fewer than 1024 elements");
  EXPECT_EQ(reason("w.weight", {4096, 31}), "fewer than 32 inputs");
  EXPECT_EQ(reason("w.weight", {64, 1, 3, 3}), "fewer than 1024 elements");
  EXPECT_EQ(reason("w.weight", {512, 1, 3, 3}), "fewer than 32 inputs");
  EXPECT_EQ(reason("w.weight", {4, 4, 4, 4, 4, 4}), "more than 5 dimensions");
  EXPECT_EQ(reason("w.weight", {64, 64}, DType::kI8), "dtype I8");
  EXPECT_EQ(reason("w.weight", {64, 64}, DType::kF4), "dtype F4");
  EXPECT_EQ(reason("w.weight", {32, 32}), "quantized");
  EXPECT_EQ(reason("w.weight", {8, 4, 3, 3, 4}, DType::kBF16), "quantized");
  EXPECT_EQ(reason("w.weight", {64, 64}, DType::kF8E4M3), "quantized");
}

class Rules : public ::testing::Test {
 protected:
  LayerRules make(std::vector<LayerRule> rules) const {
    std::vector<const TensorInfo*> tensors;
    for (const TensorInfo& tensor : tensors_) tensors.push_back(&tensor);
    return {std::move(rules), tensors};
  }
  void refuse(std::vector<LayerRule> rules, std::initializer_list<std::string> words) const {
    expect_error(ErrorCode::kConfiguration, words, [&] { make(std::move(rules)); });
  }

  std::vector<TensorInfo> tensors_ = {tensor_of("blocks.0.to_q.weight", {64, 64}),
                                      tensor_of("blocks.0.to_k.weight", {64, 64}),
                                      tensor_of("proj_out.bias", {64})};
};

TEST_F(Rules, MatchNamesWithAndWithoutTheSuffix) {
  const LayerRules rules = make({{"*.to_q", 8}, {"blocks.0.to_k.weight", 2}, {"*.bias", 0}});
  EXPECT_EQ(rules.find("blocks.0.to_q.weight")->bit_width, 8);
  EXPECT_EQ(rules.find("blocks.0.to_k.weight")->bit_width, 2);
  EXPECT_EQ(rules.find("proj_out.bias")->bit_width, 0);
  EXPECT_EQ(rules.find("other.weight"), nullptr);
}

TEST_F(Rules, TheLastMatchWins) {
  EXPECT_EQ(make({{"*", 2}, {"*.to_q", 8}}).find("blocks.0.to_q.weight")->bit_width, 8);
  EXPECT_EQ(make({{"*.to_q", 8}, {"*", 2}}).find("blocks.0.to_q.weight")->bit_width, 2);
}

TEST_F(Rules, D70OneGlobWithTwoValuesContradictsItself) {
  refuse({{"*.to_q", 8}, {"*.to_k", 4}, {"*.to_q", 2}}, {"'*.to_q' has two values"});
  EXPECT_NO_THROW(make({{"*.to_q", 8}, {"*.to_q", 8}}));
}

TEST_F(Rules, D70ARuleThatMatchesNothingNamesTheNearest) {
  refuse({{"blocks.0.to_w", 8}}, {"'blocks.0.to_w=8' matches no tensor", "Did you mean 'blocks.0"});
  refuse({{"a-name-like-none-of-them", 0}}, {"=keep' matches no tensor", "lists the names"});
  refuse({{"", 4}}, {"matches no tensor"});
}

TEST_F(Rules, WidthsAreChecked) {
  for (const int bits : {1, 3, -4, 16, 1 << 30}) {
    refuse({{"*", bits}},
           {"Invalid layer rule: *=" + std::to_string(bits), "Must be GLOB=2, 4, 8, or keep."});
  }
}

}  // namespace
}  // namespace arrow_quant
