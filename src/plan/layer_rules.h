// Which tensors are quantized: by role and size unless a rule of the user says otherwise.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/model_index.h"
#include "arrow_quant/plan.h"
#include "plan/experts.h"

namespace arrow_quant {

/// Whether shell-style `pattern` (`*` over anything, `?`, `[abc]`, `[!abc]`, `[a-z]`) matches all
/// of `text`. Runs in time linear in the product of both lengths.
bool glob_match(std::string_view pattern, std::string_view text) noexcept;

/// Whether a rule can ask for bits: floating-point, 2 to 5 dimensions, not empty.
bool can_quantize(const TensorInfo& tensor) noexcept;

/// What a tensor's type, shape and name tell about it, and the layout of a stack of experts.
struct NamedRole {
  std::string role;        ///< "norm", "embedding", "linear layer", ...
  std::string known_from;  ///< "shape" or "name"
  bool quantize = false;
  int row_dimensions = 1;  ///< as TensorPlan has them
};
NamedRole named_role(const TensorInfo& tensor, ExpertLayout layout = ExpertLayout::kNone);

/// The user's rules, checked once against all tensors of the quantized components.
class LayerRules {
 public:
  /// Raises kConfiguration for an invalid width, a glob with two values, a rule without a match, or
  /// one that asks for bits and matches only tensors that cannot have any.
  LayerRules(std::vector<LayerRule> rules, const std::vector<const TensorInfo*>& tensors);

  /// The last rule that matches `name`, or null.
  const LayerRule* find(const std::string& name) const;

 private:
  std::vector<LayerRule> rules_;
};

}  // namespace arrow_quant
