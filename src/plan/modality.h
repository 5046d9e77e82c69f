// Which modality a model generates, and the rule that said so.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/model_index.h"

namespace arrow_quant {

struct Modality {
  std::string name;    ///< "text", "code", "image", "audio", or kUnknownModality
  std::string reason;  ///< for example "component class UNet2DModel"
};

/// The modality of a model that gives no sign of one, where that is enough: the plain method needs
/// none.
inline constexpr std::string_view kUnknownModality = "unknown";

bool is_modality(std::string_view name) noexcept;

/// Apply the rules in order: stored metadata, pipeline class, component class, architectures, names
/// of model and folder, tensor names. Only the components in `chosen` (indices) count: a text
/// encoder says nothing about its pipeline. `forced` overrides all rules when it is a modality.
/// When nothing fires or when tensor names disagree, the modality is unknown if `forced` is
/// kUnknownModality; else that raises kConfiguration and says what to pass.
Modality detect_modality(const ModelDirectory& model, const std::vector<uint32_t>& chosen,
                         const std::string& forced);

}  // namespace arrow_quant
