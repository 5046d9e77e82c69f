#include "plan/modality.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "arrow_quant/error.h"
#include "core/json.h"
#include "core/text.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

struct Pattern {
  std::string_view fragment;  // lower case, matched without regard to case
  std::string_view modality;
};

// Fragments of class names, most telling first: "AudioLDMPipeline" has a UNet2DConditionModel.
constexpr std::array kClassPatterns = {
    Pattern{"diffucoder", "code"},
    Pattern{"audio", "audio"},
    Pattern{"music", "audio"},
    Pattern{"diffwave", "audio"},
    Pattern{"unet1d", "audio"},
    Pattern{"dancediffusion", "audio"},
    Pattern{"vocoder", "audio"},
    Pattern{"speech", "audio"},
    Pattern{"oobleck", "audio"},
    Pattern{"llada", "text"},
    Pattern{"diffusiongemma", "text"},
    Pattern{"unet2d", "image"},
    Pattern{"unetmotion", "image"},
    Pattern{"stablediffusion", "image"},
    Pattern{"flux", "image"},
    Pattern{"dittransformer2d", "image"},
    Pattern{"pixart", "image"},
    Pattern{"sd3transformer", "image"},
    Pattern{"transformer2dmodel", "image"},
    Pattern{"ddpmpipeline", "image"},
    Pattern{"ddimpipeline", "image"},
    Pattern{"ditpipeline", "image"},
    Pattern{"autoencoderkl", "image"},
    Pattern{"autoencodertiny", "image"},
    Pattern{"priortransformer", "image"},
    Pattern{"kandinsky", "image"},
};

// The same for what transformers calls an architecture; diffusers has image models of such names.
constexpr std::array kArchitecturePatterns = {
    Pattern{"dream", "text"},       Pattern{"mdlm", "text"},        Pattern{"sedd", "text"},
    Pattern{"formaskedlm", "text"}, Pattern{"forcausallm", "text"},
};

// Fragments of class names of what makes moving pictures, which count as images.
constexpr std::array<std::string_view, 16> kVideoFragments = {
    "video",     "3d",     "motion", "temporal", "wan",      "ltx",         "mochi",  "allegro",
    "cogvideox", "cosmos", "latte",  "magvit",   "skyreels", "easyanimate", "helios", "vidtok"};

// Fragments of the names that models are published under.
constexpr std::array kNamePatterns = {
    Pattern{"diffucoder", "code"},
    Pattern{"llada", "text"},
    Pattern{"dream-v0", "text"},
    Pattern{"mdlm", "text"},
    Pattern{"audioldm", "audio"},
    Pattern{"stable-audio", "audio"},
    Pattern{"musicldm", "audio"},
    Pattern{"diffwave", "audio"},
    Pattern{"stable-diffusion", "image"},
    Pattern{"sdxl", "image"},
    Pattern{"flux", "image"},
    Pattern{"pixart", "image"},
};

// Fragments of tensor names that only one family of models has.
constexpr std::array kTensorPatterns = {
    Pattern{"down_blocks.", "image"},
    Pattern{"double_blocks.", "image"},
    Pattern{"single_transformer_blocks.", "image"},
    Pattern{"input_blocks.", "image"},
    Pattern{"joint_blocks.", "image"},
    Pattern{"pos_embed.proj.weight", "image"},
    Pattern{"x_embedder.proj.weight", "image"},
    Pattern{"model.embed_tokens.weight", "text"},
    Pattern{"transformer.wte.weight", "text"},
    Pattern{"embeddings.word_embeddings.", "text"},
    Pattern{"preprocess_conv.", "audio"},
    Pattern{"dilated_conv", "audio"},
    Pattern{"spectrogram_upsampler", "audio"},
    Pattern{"diffusion_embedding.projection", "audio"},
};

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](char c) {
    return (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return result;
}

std::optional<std::string> modality_of_class(const std::string& name, bool architecture) {
  const std::string lowered = lower(name);
  const auto matches = [&](const Pattern& p) {
    return lowered.find(p.fragment) != std::string::npos;
  };
  if (architecture) {
    const auto known = std::ranges::find_if(kArchitecturePatterns, matches);
    if (known != kArchitecturePatterns.end()) return std::string(known->modality);
  }
  const auto known = std::ranges::find_if(kClassPatterns, matches);
  if (known != kClassPatterns.end()) return std::string(known->modality);
  return std::nullopt;
}

bool is_video(const std::string& class_name) {
  const std::string lowered = lower(class_name);
  return std::ranges::any_of(kVideoFragments, [&](std::string_view fragment) {
    return lowered.find(fragment) != std::string::npos;
  });
}

std::string string_field(const Json& object, const char* key) {
  const bool present = object.is_object() && object.contains(key) && object[key].is_string();
  return present ? object[key].get<std::string>() : std::string{};
}

// The model's names, lowered: its folder or file, and what its configs call it.
std::vector<std::string> names_of(const ModelDirectory& model, const std::vector<Json>& configs) {
  std::filesystem::path path = std::filesystem::path(model.path).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  std::vector<std::string> names;
  for (const Json& config : configs) names.push_back(lower(string_field(config, "_name_or_path")));
  names.push_back(lower(path.filename().string()));
  return names;
}

// "coder" in a model's name makes a text class a code model (DiffuCoder has Dream's classes); an
// encoder or a decoder does not.
bool names_a_coder(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    for (size_t at = name.find("coder"); at != std::string::npos; at = name.find("coder", at + 1)) {
      const std::string_view before = std::string_view(name).substr(0, at);
      if (!before.ends_with("en") && !before.ends_with("de") && !before.ends_with("vo"))
        return true;
    }
  }
  return false;
}

std::optional<Modality> from_stored(const ModelDirectory& model,
                                    const std::vector<uint32_t>& chosen,
                                    const std::vector<Json>& configs) {
  for (const uint32_t i : chosen) {
    const auto& metadata = model.components[i].metadata;
    const auto entry = metadata.find("modality");
    if (entry != metadata.end() && is_modality(entry->second)) {
      const bool old = !model.components[i].layout.empty();
      return Modality{entry->second,
                      old ? "column 'modality' of the weights" : "safetensors metadata 'modality'"};
    }
  }
  if (!model.metadata_json.empty()) {
    const Json stored = parse_json(model.metadata_json, model.path + "/metadata.json");
    const std::string modality = string_field(stored, "modality");
    if (is_modality(modality)) return Modality{modality, "'modality' in metadata.json"};
  }
  for (const Json& config : configs) {
    const std::string stored = string_field(config, "modality");
    if (is_modality(stored)) return Modality{stored, "'modality' in config.json"};
  }
  return std::nullopt;
}

// AudioLDM and MusicLDM have the U-Net class and the tensor names of Stable Diffusion; what only
// they do is to concatenate the class embedding to that of the time.
std::optional<Modality> from_fields(const std::vector<Json>& configs) {
  constexpr const char* kField = "class_embeddings_concat";
  for (const Json& config : configs) {
    if (config.is_object() && config.contains(kField) && config[kField] == true) {
      return Modality{"audio", std::string("'") + kField + "' in config.json"};
    }
  }
  return std::nullopt;
}

std::optional<Modality> from_classes(const ModelDirectory& model,
                                     const std::vector<Json>& configs) {
  const std::string architecture = "architecture ";
  std::vector<std::pair<std::string, std::string>> classes;  // name, what it is
  if (!model.model_index_json.empty()) {
    const Json index = parse_json(model.model_index_json, model.path + "/model_index.json");
    classes.emplace_back(string_field(index, "_class_name"), "pipeline class ");
  }
  for (const Json& config : configs) {
    classes.emplace_back(string_field(config, "_class_name"), "component class ");
    if (!config.is_object() || !config.contains("architectures")) continue;
    for (const Json& name : config["architectures"]) {
      if (name.is_string()) classes.emplace_back(name.get<std::string>(), architecture);
    }
  }
  for (const auto& [name, kind] : classes) {
    const std::optional<std::string> modality = modality_of_class(name, kind == architecture);
    if (!modality) continue;
    if (*modality == "text" && names_a_coder(names_of(model, configs))) {
      return Modality{"code", kind + name + " and 'coder' in the model's name"};
    }
    return Modality{*modality, kind + name};
  }
  return std::nullopt;
}

// What a pipeline is made of, for classes that nobody has named here: a vocoder speaks, an
// autoencoder of diffusers paints, and a tokenizer without either writes.
std::optional<Modality> from_parts(const ModelDirectory& model, const std::vector<Json>& configs) {
  std::vector<std::string> classes;
  bool vocoder = false, decoder = false, tokenizer = false, diffusers = false;
  if (!model.model_index_json.empty()) {
    const Json index = parse_json(model.model_index_json, model.path + "/model_index.json");
    classes.push_back(string_field(index, "_class_name"));
    for (const auto& [name, entry] : index.items()) {
      if (!entry.is_array() || entry.size() != 2 || !entry[1].is_string()) continue;
      const std::string class_name = entry[1].get<std::string>();
      const std::string lowered = lower(class_name);
      classes.push_back(class_name);
      vocoder |= name.find("vocoder") != std::string::npos;
      tokenizer |= name.find("tokenizer") != std::string::npos;
      decoder |= name.find("vae") != std::string::npos || name.find("vq") != std::string::npos ||
                 lowered.find("autoencoder") != std::string::npos;
    }
  }
  for (const Json& config : configs) {
    const std::string name = string_field(config, "_class_name");
    if (name.empty()) continue;
    classes.push_back(name);
    diffusers = true;
  }
  const auto video = std::ranges::find_if(classes, is_video);
  if (video != classes.end()) return Modality{"image", "video, by the class " + *video};
  if (vocoder) return Modality{"audio", "the pipeline has a vocoder"};
  if (decoder) return Modality{"image", "the pipeline has an autoencoder"};
  if (tokenizer && !diffusers) return Modality{"text", "a tokenizer and nothing that decodes"};
  if (diffusers) return Modality{"image", "a diffusers class without a sign of sound or text"};
  return std::nullopt;
}

[[noreturn]] void ask(const ModelDirectory& model, const std::string& what) {
  throw Error(
      ErrorCode::kConfiguration, what,
      {.path = model.path,
       .hint = "Pass modality='text', 'code', 'image' or 'audio' "
               "(command line: --modality image).\n"
               "A model that is no diffusion model needs none: ArrowQuantV2(mode='base')."});
}

std::optional<Modality> from_names(const ModelDirectory& model, const std::vector<Json>& configs) {
  for (const std::string& name : names_of(model, configs)) {
    for (const Pattern& pattern : kNamePatterns) {
      if (name.find(pattern.fragment) != std::string::npos) {
        return Modality{std::string(pattern.modality), "model name " + name};
      }
    }
  }
  return std::nullopt;
}

// Every modality that tensor names fit, and the last name that added one.
std::pair<std::set<std::string>, std::string> from_tensor_names(
    const ModelDirectory& model, const std::vector<uint32_t>& chosen) {
  std::set<std::string> found;
  std::string reason;
  for (const uint32_t i : chosen) {
    for (const TensorInfo& tensor : model.components[i].tensors) {
      for (const Pattern& pattern : kTensorPatterns) {
        if (tensor.name.find(pattern.fragment) == std::string::npos) continue;
        if (found.emplace(pattern.modality).second) reason = "tensor name " + tensor.name;
      }
    }
  }
  return {std::move(found), std::move(reason)};
}

}  // namespace

bool is_modality(std::string_view name) noexcept {
  return name == "text" || name == "code" || name == "image" || name == "audio";
}

Modality detect_modality(const ModelDirectory& model, const std::vector<uint32_t>& chosen,
                         const std::string& forced) {
  if (!forced.empty() && forced != kUnknownModality) {
    if (!is_modality(forced)) {
      throw Error(ErrorCode::kConfiguration,
                  "Invalid modality: " + forced + ". Must be text, code, image, or audio.");
    }
    return {forced, "set by the user"};
  }
  std::vector<Json> configs;
  for (const uint32_t i : chosen) {
    const ModelIndex& component = model.components[i];
    if (component.config_json.empty()) continue;
    configs.push_back(parse_config(component.config_json, component.path + "/config.json"));
  }
  if (auto modality = from_stored(model, chosen, configs)) return *modality;
  if (auto modality = from_fields(configs)) return *modality;
  if (auto modality = from_classes(model, configs)) return *modality;
  if (auto modality = from_names(model, configs)) return *modality;
  if (auto modality = from_parts(model, configs)) return *modality;
  const auto [found, reason] = from_tensor_names(model, chosen);
  if (found.size() == 1) return {*found.begin(), reason};
  if (!forced.empty()) return {forced, "nothing tells, and nothing depends on it"};
  if (found.empty()) ask(model, "the modality cannot be told from metadata, class or tensor names");
  ask(model, "the modality is ambiguous: tensor names fit " + join({found.begin(), found.end()}));
}

}  // namespace arrow_quant
