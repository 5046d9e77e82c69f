#include "plan/layer_rules.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "arrow_quant/error.h"
#include "core/text.h"

namespace arrow_quant {
namespace {

constexpr uint64_t kFewestElements = 1024;
constexpr uint64_t kFewestInputs = 32;
constexpr std::string_view kWeightSuffix = ".weight";

struct Role {
  std::string_view glob;  // on the name without wrapper and ".weight"
  std::string_view role;
};

// Kept: what happens once per model on the way in and out, and one-off embeddings, whose inputs are
// few and odd (a time embedding sees at most T distinct inputs). What a block repeats is quantized:
// attention, feed-forward, convolutions, and its projections of the time (time_emb_proj, adaLN).
// Globs without a leading `*` are anchored at the network's root, below the wrappers.
constexpr std::array kKeptRoles = {
    Role{"first_stage_model.*", "autoencoder"},
    Role{"vae.*", "autoencoder"},
    Role{"audio_vae.*", "autoencoder"},
    Role{"vocoder.*", "vocoder"},
    Role{"text_encoder.*", "text encoder"},
    Role{"text_encoder_?.*", "text encoder"},
    Role{"text_encoders.*", "text encoder"},
    Role{"model_ema.*", "average of the weights over training"},
    Role{"cond_stage_model.*", "text encoder"},
    Role{"conditioner.*", "text encoder"},
    Role{"*norm", "norm"},
    Role{"*norm?", "norm"},
    Role{"*.ln", "norm"},
    Role{"*experts*_bias", "bias"},
    Role{"*scale_shift_table", "modulation table"},
    Role{"*time_embed*", "time embedding"},
    Role{"*timestep_*", "time embedding"},
    Role{"*time_step_proj*", "time embedding"},
    Role{"*time_mlp*", "time embedding"},
    Role{"*diffusion_embedding*", "time embedding"},
    Role{"*sigma_map*", "time embedding"},
    Role{"adaln_single.*", "time embedding"},
    Role{"t_embedder.*", "time embedding"},
    Role{"time_in.*", "time embedding"},
    Role{"guidance_in.*", "guidance embedding"},
    Role{"vector_in.*", "conditioning embedding"},
    Role{"*_embedder", "first projection"},
    Role{"*_embedder.*", "conditioning embedding"},
    Role{"*add_embedding*", "conditioning embedding"},
    Role{"*class_embed*", "class embedding"},
    Role{"label_emb*", "class embedding"},
    Role{"*caption_projection*", "conditioning embedding"},
    Role{"encoder_hid_proj*", "conditioning embedding"},
    Role{"encoder_hidden_states_proj", "conditioning embedding"},
    Role{"embedding_proj", "conditioning embedding"},
    Role{"cross_attention_proj.*", "conditioning embedding"},
    Role{"global_proj.*", "conditioning embedding"},
    Role{"*pos_embed*", "position or patch embedding"},
    Role{"*patch_embed*", "patch embedding"},
    Role{"*embed_tokens*", "embedding"},
    Role{"*embedding_table*", "embedding"},
    Role{"*embeddings.*", "embedding"},
    Role{"*.wte", "embedding"},
    Role{"*.wpe", "position embedding"},
    Role{"*embedding", "embedding"},
    Role{"*word_embeddings", "embedding"},
    Role{"*.mlp.gate", "router"},
    Role{"shared", "embedding"},
    Role{"*relative_attention_bias", "position embedding"},
    Role{"*_tokens", "learned tokens"},
    Role{"*conv_in", "first convolution"},
    Role{"preprocess_conv", "first convolution"},
    Role{"input_blocks.0.0", "first convolution"},
    Role{"proj_in", "first projection"},
    Role{"input_projection*", "first projection"},
    Role{"img_in", "first projection"},
    Role{"txt_in", "first projection"},
    Role{"*conv_out", "output head"},
    Role{"postprocess_conv", "output head"},
    Role{"norm_out*", "output head"},
    Role{"proj_out", "output head"},
    Role{"proj_out_?", "output head"},
    Role{"proj_to_clip_embeddings", "output head"},
    Role{"output_projection*", "output head"},
    Role{"final_layer*", "output head"},
    Role{"*output_layer.*", "output head"},
    Role{"*lm_head*", "output head"},
    Role{"transformer.ff_out", "output head"},
    Role{"*cls.predictions*", "output head"},
    Role{"out.2", "output head"},
};

// What checkpoints and training code put before the names of the network.
constexpr std::array<std::string_view, 7> kWrappers = {
    "_orig_mod.", "module.", "model.", "diffusion_model.", "diffmodel.", "network.", "net."};

std::string_view without_wrapper(std::string_view name) noexcept {
  for (;;) {  // wrappers are put around wrappers
    const auto* const found = std::ranges::find_if(
        kWrappers, [name](std::string_view wrapper) { return name.starts_with(wrapper); });
    if (found == kWrappers.end()) return name;
    name.remove_prefix(found->size());
  }
}

std::string_view without_suffix(std::string_view name) noexcept {
  return name.ends_with(kWeightSuffix) ? name.substr(0, name.size() - kWeightSuffix.size()) : name;
}

// Matches one `[...]` at the front of `pattern`; returns its length, or 0 when it is not closed.
size_t class_length(std::string_view pattern) noexcept {
  const size_t close = pattern.find(']', pattern.size() > 1 && pattern[1] == '!' ? 3 : 2);
  return close == std::string_view::npos ? 0 : close + 1;
}

bool class_matches(std::string_view set, char c) noexcept {
  std::string_view body = set.substr(1, set.size() - 2);
  const bool negated = body.starts_with('!');
  if (negated) body.remove_prefix(1);
  bool found = false;
  for (size_t i = 0; i < body.size(); ++i) {
    if (i + 2 < body.size() && body[i + 1] == '-') {
      found |= body[i] <= c && c <= body[i + 2];
      i += 2;
    } else {
      found |= body[i] == c;
    }
  }
  return found != negated;
}

bool rule_matches(const LayerRule& rule, const std::string& name) noexcept {
  return glob_match(rule.glob, name) || glob_match(rule.glob, without_suffix(name));
}

std::string spell(const LayerRule& rule) {
  return rule.glob + "=" + (rule.bit_width == 0 ? "keep" : std::to_string(rule.bit_width));
}

[[noreturn]] void refuse_bits(const LayerRule& rule, const TensorInfo& tensor) {
  const std::string found = tensor.elements() == 0
                                ? "no elements"
                                : "dtype " + std::string(dtype_info(tensor.dtype).name) + " and " +
                                      std::to_string(tensor.shape.size()) + " dimensions";
  throw Error(ErrorCode::kConfiguration,
              "the layer rule '" + spell(rule) + "' asks for bits, but the tensor has " + found,
              {.tensor = tensor.name,
               .hint = "Floating-point tensors of 2 to 5 dimensions can be quantized; "
                       "the rule matches none."});
}

}  // namespace

bool can_quantize(const TensorInfo& tensor) noexcept {
  const size_t rank = tensor.shape.size();
  return dtype_info(tensor.dtype).quantizable && rank >= 2 && rank <= 5 && tensor.elements() > 0;
}

bool glob_match(std::string_view pattern, std::string_view text) noexcept {
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;  // the last '*', and where its match was tried up to
  size_t tried = 0;
  while (t < text.size()) {
    size_t step = 0;
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      tried = t;
      continue;
    }
    if (p < pattern.size()) {
      const size_t length = pattern[p] == '[' ? class_length(pattern.substr(p)) : 0;
      if (length != 0) {
        step = class_matches(pattern.substr(p, length), text[t]) ? length : 0;
      } else {
        step = pattern[p] == '?' || pattern[p] == text[t] ? 1 : 0;
      }
    }
    if (step != 0) {
      p += step;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++tried;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

NamedRole named_role(const TensorInfo& tensor, ExpertLayout layout) {
  if (!dtype_info(tensor.dtype).quantizable) {
    return {"dtype " + std::string(dtype_info(tensor.dtype).name), "shape"};
  }
  if (tensor.shape.size() < 2) return {"bias, norm or scalar", "shape"};
  if (tensor.shape.size() > 5) return {"more than 5 dimensions", "shape"};
  const uint64_t elements = tensor.elements();
  if (elements < kFewestElements) return {"fewer than 1024 elements", "shape"};
  if (elements / matrix_rows(tensor, row_dimensions(layout)) < kFewestInputs) {
    return {"fewer than 32 inputs", "shape"};
  }
  if (tensor.name.ends_with(".bias")) return {"bias", "name"};
  const std::string_view name = without_suffix(without_wrapper(tensor.name));
  for (const Role& role : kKeptRoles) {
    if (glob_match(role.glob, name)) return {std::string(role.role), "name"};
  }
  if (layout == ExpertLayout::kOutputsFirst) return {"weights of experts", "name", true, 2};
  if (layout == ExpertLayout::kInputsFirst) {
    return {"weights of experts, inputs first", "name", true};
  }
  return {tensor.shape.size() == 2 ? "linear weight" : "convolution weight", "shape", true};
}

LayerRules::LayerRules(std::vector<LayerRule> rules, const std::vector<const TensorInfo*>& tensors)
    : rules_(std::move(rules)) {
  std::map<std::string, int> seen;
  std::vector<std::string> names;
  for (const TensorInfo* tensor : tensors) names.emplace_back(without_suffix(tensor->name));
  for (const LayerRule& rule : rules_) {
    const int bits = rule.bit_width;
    if (bits != 0 && bits != 2 && bits != 4 && bits != 8) {
      throw Error(ErrorCode::kConfiguration,
                  "Invalid layer rule: " + spell(rule) + ". Must be GLOB=2, 4, 8, or keep.");
    }
    const auto [entry, fresh] = seen.emplace(rule.glob, bits);
    if (!fresh && entry->second != bits) {
      throw Error(ErrorCode::kConfiguration,
                  "the layer rule '" + printable(rule.glob) + "' has two values");
    }
    const auto matches = [&](const TensorInfo* t) { return rule_matches(rule, t->name); };
    const auto first = std::ranges::find_if(tensors, matches);
    if (first != tensors.end()) {
      // A block's glob may match its biases and norms beside its weights, but not only such.
      const auto can_apply = [&](const TensorInfo* t) { return matches(t) && can_quantize(*t); };
      if (bits != 0 && std::ranges::none_of(tensors, can_apply)) refuse_bits(rule, **first);
      continue;
    }
    const std::string near = nearest(rule.glob, names);
    throw Error(ErrorCode::kConfiguration, "the layer rule '" + spell(rule) + "' matches no tensor",
                {.hint = near.empty() ? "'arrow-quant plan MODEL' lists the names."
                                      : "Did you mean '" + near + "'?"});
  }
}

const LayerRule* LayerRules::find(const std::string& name) const {
  for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule) {
    if (rule_matches(*rule, name)) return &*rule;
  }
  return nullptr;
}

}  // namespace arrow_quant
