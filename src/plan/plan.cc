#include "plan/plan.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <string_view>
#include <utility>

#include "arrow_quant/error.h"
#include "codec/spec.h"
#include "core/json.h"
#include "core/text.h"
#include "plan/experts.h"
#include "plan/layer_rules.h"
#include "plan/modality.h"

namespace arrow_quant {
namespace {

// What diffusers calls the network that is run at every step.
constexpr std::array<std::string_view, 8> kDenoisers = {
    "unet", "unet_2", "transformer", "transformer_2", "prior", "denoiser", "dit", "model"};
// Rows with fewer inputs do better with fp16 (docs/reference/format.md).
constexpr uint64_t kTwoLevelInputs = 128;

std::vector<std::string> component_names(const ModelDirectory& model) {
  std::vector<std::string> names;
  for (const ModelIndex& component : model.components) names.push_back(component.component);
  return names;
}

// Fragments of class names of networks of diffusers that do not denoise.
constexpr std::array<std::string_view, 17> kNoDenoisers = {
    "Autoencoder", "VAE",        "Vae",        "VQModel",   "Vocoder",   "Encoder",
    "Decoder",     "Projection", "ControlNet", "Adapter",   "Tokenizer", "Embedder",
    "Conditioner", "Safety",     "Upscaler",   "Upsampler", "Connectors"};

/// Components of a pipeline that denoise, by the library and class that its index gives them: those
/// of the names that all pipelines use, or else the networks of diffusers of another kind.
std::vector<std::string> denoisers(const ModelDirectory& model) {
  const std::vector<std::string> names = component_names(model);
  std::vector<std::string> found;
  std::ranges::copy_if(names, std::back_inserter(found), [](const std::string& name) {
    return std::ranges::find(kDenoisers, name) != kDenoisers.end();
  });
  if (!found.empty()) return found;
  const nlohmann::json index = parse_json(model.model_index_json, model.path + "/model_index.json");
  for (const std::string& name : names) {
    if (!index.contains(name) || !index[name].is_array() || index[name].size() != 2) continue;
    if (!index[name][0].is_string() || !index[name][1].is_string()) continue;
    const std::string kind = index[name][1].get<std::string>();
    const bool other = std::ranges::any_of(kNoDenoisers, [&](std::string_view fragment) {
      return kind.find(fragment) != std::string::npos;
    });
    if (index[name][0] != "transformers" && !other) found.push_back(name);
  }
  return found;
}

std::vector<uint32_t> choose_components(const ModelDirectory& model,
                                        const std::vector<std::string>& wanted) {
  const std::vector<std::string> names = component_names(model);
  for (const std::string& name : wanted) {
    if (std::ranges::find(names, name) != names.end()) continue;
    const bool single = model.kind != ModelDirectory::Kind::kPipeline;
    throw Error(ErrorCode::kConfiguration, "the model has no component '" + name + "'",
                {.path = model.path,
                 .hint = single ? "It is a single component: leave components empty."
                                : "Components with weights: " + join(names) + "."});
  }
  std::vector<uint32_t> chosen;
  const bool pipeline = model.kind == ModelDirectory::Kind::kPipeline;
  const std::vector<std::string> known = wanted.empty() && pipeline ? denoisers(model) : wanted;
  for (uint32_t i = 0; i < names.size(); ++i) {
    if (!pipeline || std::ranges::find(known, names[i]) != known.end()) chosen.push_back(i);
  }
  if (chosen.empty()) {
    throw Error(ErrorCode::kConfiguration, "no component of this pipeline is a known denoiser",
                {.path = model.path,
                 .hint = "Name what to quantize: components=[...] (--components). It has: " +
                         join(names) + "."});
  }
  return chosen;
}

bool can_rise(const TensorPlan& tensor) noexcept {
  return tensor.encoding != Encoding::kCopy && !tensor.fixed && tensor.spec.bit_width < 8;
}

ParamEncoding encoding_for(const PlanOptions& options, int bit_width, int group_size,
                           uint64_t cols) {
  switch (options.param_encoding) {
    case ParamEncodingChoice::kTwoLevel:
      return bit_width == 8 ? ParamEncoding::kRow : ParamEncoding::kTwoLevel;
    case ParamEncodingChoice::kFp16:
      return ParamEncoding::kFp16;
    case ParamEncodingChoice::kRow:
      return bit_width == 8 ? ParamEncoding::kRow : ParamEncoding::kTwoLevel;
    case ParamEncodingChoice::kResidualBinary:
      if (bit_width == 2) return ParamEncoding::kResidualBinary;
      return bit_width == 8 ? ParamEncoding::kRow : ParamEncoding::kTwoLevel;
    case ParamEncodingChoice::kAuto:
      break;
  }
  if (bit_width == 8) return ParamEncoding::kRow;
  const bool fits = codec::can_have_sub_groups(group_size) && cols >= kTwoLevelInputs;
  return fits ? ParamEncoding::kTwoLevel : ParamEncoding::kFp16;
}

void raise_problem(const std::string& problem) {
  if (!problem.empty()) throw Error(ErrorCode::kConfiguration, problem);
}

void check_group_size(int group, ParamEncodingChoice choice) {
  // What another choice makes of layers takes any group that fp16 takes.
  const ParamEncoding encoding = choice == ParamEncodingChoice::kTwoLevel ? ParamEncoding::kTwoLevel
                                 : choice == ParamEncodingChoice::kResidualBinary
                                     ? ParamEncoding::kResidualBinary
                                     : ParamEncoding::kFp16;
  raise_problem(codec::group_size_problem(group, encoding));
}

/// An allocation, looked up by component and name.
class Allocation {
 public:
  Allocation(const std::vector<LayerBits>& layers, ParamEncodingChoice choice) {
    for (const LayerBits& layer : layers) {
      const int bits = layer.bit_width;
      if (bits != 0 && !codec::bit_width_problem(bits).empty()) {
        throw Error(ErrorCode::kConfiguration,
                    "the allocation gives " + std::to_string(bits) + " bits, expected 0, 2, 4 or 8",
                    {.tensor = layer.name});
      }
      if (layer.group_size != 0) check_group_size(layer.group_size, choice);
      if (!layers_.emplace(std::pair(layer.component, layer.name), &layer).second) {
        throw Error(ErrorCode::kConfiguration, "the allocation names a tensor twice",
                    {.tensor = layer.name});
      }
    }
  }

  /// What is said about a tensor, or null.
  const LayerBits* find(const std::string& component, const std::string& name) {
    const auto found = layers_.find(std::pair(component, name));
    if (found == layers_.end()) return nullptr;
    ++found_;
    return found->second;
  }

  /// Raises kConfiguration unless every tensor was looked up.
  void check_all_found() const {
    if (found_ == layers_.size()) return;
    throw Error(ErrorCode::kConfiguration, "the allocation names " +
                                               std::to_string(layers_.size() - found_) +
                                               " tensors that the model does not have");
  }

 private:
  std::map<std::pair<std::string, std::string>, const LayerBits*> layers_;
  size_t found_ = 0;
};

/// The roles that somebody knows. Of those of a component, the first whose glob fits counts.
class Roles {
 public:
  explicit Roles(const std::vector<TensorRole>& roles) {
    for (const TensorRole& role : roles) {
      Component& own = components_[role.component];
      if (role.name.find_first_of("*?[") == std::string::npos) {
        own.names.emplace(role.name, &role);
      } else {
        own.globs.push_back(&role);
      }
    }
  }

  /// What a tensor is. What its type, shape and name forbid stays forbidden.
  NamedRole of(const std::string& component, const TensorInfo& tensor, ExpertLayout layout) const {
    const TensorRole* known = find(component, tensor.name);
    if (known != nullptr && known->row_dimensions != 0) {
      const bool stack = known->row_dimensions == 2 && tensor.shape.size() >= 3;
      layout = stack ? ExpertLayout::kOutputsFirst : ExpertLayout::kNone;
    }
    NamedRole named = named_role(tensor, layout);
    named.row_dimensions = row_dimensions(layout);
    if (known == nullptr) return named;
    if (!named.quantize && (named.known_from == "shape" || known->quantize)) return named;
    return {known->role.empty() ? named.role : known->role, known->known_from, known->quantize,
            named.row_dimensions};
  }

 private:
  struct Component {
    std::map<std::string, const TensorRole*> names;
    std::vector<const TensorRole*> globs;
  };

  const TensorRole* find(const std::string& component, const std::string& name) const {
    const auto own = components_.find(component);
    if (own == components_.end()) return nullptr;
    if (const auto exact = own->second.names.find(name); exact != own->second.names.end()) {
      return exact->second;
    }
    const auto fits = [&](const TensorRole* role) { return glob_match(role->name, name); };
    const auto found = std::ranges::find_if(own->second.globs, fits);
    return found == own->second.globs.end() ? nullptr : *found;
  }

  std::map<std::string, Component> components_;
};

/// Columns of the matrix that a weight with elements is.
uint64_t matrix_cols(const TensorInfo& tensor, const TensorPlan& plan) noexcept {
  return tensor.elements() / matrix_rows(tensor, plan.row_dimensions);
}

TensorPlan plan_tensor(const TensorInfo& tensor, uint32_t number, const PlanOptions& options,
                       const LayerRules& rules, const LayerBits* allotted, const NamedRole& role) {
  TensorPlan plan{.tensor = number, .role = role.role, .known_from = role.known_from};
  const LayerRule* rule = rules.find(tensor.name);
  const std::optional<std::string> keep = role.quantize ? std::nullopt : std::optional(role.role);
  if (rule != nullptr) {
    plan.reason = "rule '" + rule->glob + "'";
    plan.fixed = true;
    if (rule->bit_width == 0) return plan;
    if (!can_quantize(tensor)) {
      plan.reason = "kept: " + keep.value_or("no elements") + "; " + plan.reason + " cannot apply";
      return plan;
    }
  } else if (keep) {
    plan.reason = "kept: " + *keep;
    return plan;
  } else if (allotted != nullptr) {
    plan.reason = allotted->reason;
    plan.fixed = true;
    if (allotted->bit_width == 0) return plan;
  } else {
    plan.reason = role.role;
  }
  const int bits = rule != nullptr       ? rule->bit_width
                   : allotted != nullptr ? allotted->bit_width
                                         : options.bit_width;
  const bool own_groups = rule == nullptr && allotted != nullptr && allotted->group_size != 0;
  const int group = own_groups ? allotted->group_size : options.group_size;
  plan.row_dimensions = role.row_dimensions;
  plan.spec = {.bit_width = bits,
               .group_size = group,
               .param_encoding = encoding_for(options, bits, group, matrix_cols(tensor, plan)),
               .method = options.method};
  codec::check_spec(plan.spec, {.tensor = tensor.name});
  plan.encoding = encoding_of(plan.spec);
  return plan;
}

}  // namespace

uint64_t planned_bytes(const TensorInfo& tensor, const TensorPlan& plan) {
  if (plan.encoding == Encoding::kCopy) return tensor.nbytes;
  const uint64_t rows = matrix_rows(tensor, plan.row_dimensions);
  return codec::stored_bytes(plan.spec, rows, tensor.elements() / rows);
}

void check_plan_options(const PlanOptions& options) {
  const int bits = options.bit_width;
  raise_problem(codec::bit_width_problem(bits));
  check_group_size(options.group_size, options.param_encoding);
  if (options.param_encoding == ParamEncodingChoice::kResidualBinary) {
    raise_problem(codec::bit_width_problem(bits, ParamEncoding::kResidualBinary));
  }
  if (options.param_encoding == ParamEncodingChoice::kRow) {
    raise_problem(codec::bit_width_problem(bits, ParamEncoding::kRow));
  }
}

Plan make_plan(const ModelDirectory& model, const PlanOptions& options) {
  check_plan_options(options);
  const std::vector<uint32_t> chosen = choose_components(model, options.components);
  Modality modality = detect_modality(model, chosen, options.modality);
  std::vector<const TensorInfo*> tensors;
  for (uint32_t i : chosen) {
    for (const TensorInfo& tensor : model.components[i].tensors) tensors.push_back(&tensor);
  }
  const LayerRules rules(options.layer_rules, tensors);
  Allocation allocation(options.allocation, options.param_encoding);
  const Roles roles(options.roles);

  Plan plan{.modality = std::move(modality.name),
            .modality_reason = std::move(modality.reason),
            .components = {}};
  bool quantizes = false;
  for (uint32_t i : chosen) {
    const ModelIndex& component = model.components[i];
    ComponentPlan& out = plan.components.emplace_back(ComponentPlan{.component = i});
    out.source_bytes = component.total_bytes();
    const ExpertStacks stacks(component.tensors);
    for (uint32_t t = 0; t < component.tensors.size(); ++t) {
      const TensorInfo& tensor = component.tensors[t];
      const LayerBits* allotted = allocation.find(component.component, tensor.name);
      const NamedRole role = roles.of(component.component, tensor, stacks.layout(tensor));
      out.tensors.push_back(plan_tensor(tensor, t, options, rules, allotted, role));
      out.planned_bytes += planned_bytes(tensor, out.tensors.back());
      quantizes |= out.tensors.back().encoding != Encoding::kCopy;
    }
  }
  allocation.check_all_found();
  const auto is_empty = [](const TensorInfo* tensor) { return tensor->elements() == 0; };
  if (!quantizes && !tensors.empty() && std::ranges::all_of(tensors, is_empty)) {
    const ModelIndex& first = model.components[chosen[0]];
    throw Error(ErrorCode::kConfiguration, "all tensors of this model are empty",
                {.path = first.files.empty() ? model.path : first.files[0].path,
                 .tensor = tensors[0]->name,
                 .hint = "Save the weights again: there is nothing to quantize."});
  }
  if (!quantizes) {
    throw Error(ErrorCode::kConfiguration, "no tensor of this model would be quantized",
                {.path = model.path,
                 .hint = "'arrow-quant plan MODEL' says why each is kept; a layer rule "
                         "(--layer-rule 'GLOB=4') overrides it."});
  }
  return plan;
}

bool can_raise_bits(const Plan& plan) noexcept {
  return std::ranges::any_of(plan.components, [](const ComponentPlan& component) {
    return std::ranges::any_of(component.tensors, can_rise);
  });
}

uint64_t raise_bits(const ModelDirectory& model, const PlanOptions& options,
                    const std::vector<bool>& failing, Plan& plan) {
  uint64_t raised = 0;
  size_t number = 0;
  for (ComponentPlan& component : plan.components) {
    component.planned_bytes = 0;
    for (TensorPlan& tensor : component.tensors) {
      const TensorInfo& source = model.components[component.component].tensors[tensor.tensor];
      if (failing.at(number++) && can_rise(tensor)) {
        const int before = tensor.spec.bit_width;
        tensor.spec.bit_width = 2 * before;
        tensor.spec.param_encoding =
            encoding_for(options, 2 * before, tensor.spec.group_size, matrix_cols(source, tensor));
        tensor.reason += "; INT" + std::to_string(before) + " missed the accuracy";
        ++raised;
      }
      component.planned_bytes += planned_bytes(source, tensor);
    }
  }
  return raised;
}

}  // namespace arrow_quant
