// Which modality a model generates, and the rule that said so.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/model_index.h"

namespace arrow_quant {

struct Modality {
  std::string name;    ///< "text", "code", "image" or "audio"
  std::string reason;  ///< for example "component class UNet2DModel"
};

bool is_modality(std::string_view name) noexcept;

/// Apply the rules in order: stored metadata, pipeline class, component class, architectures, names
/// of model and folder, tensor names. Only the components in `chosen` (indices) count: a text
/// encoder says nothing about its pipeline. `forced` overrides all rules when not empty. Raises
/// kConfiguration when nothing fires or when tensor names disagree, and says what to pass.
Modality detect_modality(const ModelDirectory& model, const std::vector<uint32_t>& chosen,
                         const std::string& forced);

}  // namespace arrow_quant
