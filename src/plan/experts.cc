#include "plan/experts.h"

#include <string>

namespace arrow_quant {
namespace {

constexpr std::string_view kExperts = "experts.";
constexpr std::string_view kGateUp = "gate_up_proj";
constexpr std::string_view kDown = "down_proj";

bool is_digit(char c) noexcept { return '0' <= c && c <= '9'; }

// A number behind "experts" counts experts that have tensors of their own.
bool is_stack(const TensorInfo& tensor) noexcept {
  const std::string_view name = tensor.name;
  const size_t experts = name.rfind(kExperts);
  if (tensor.shape.size() != 3 || experts == std::string_view::npos) return false;
  for (size_t i = experts + kExperts.size(); i < name.size(); ++i) {
    if (name[i - 1] == '.' && is_digit(name[i])) return false;
  }
  return true;
}

}  // namespace

uint64_t matrix_rows(const TensorInfo& tensor, int row_dimensions) noexcept {
  uint64_t rows = 1;
  for (int i = 0; i < row_dimensions; ++i) rows *= tensor.shape[static_cast<size_t>(i)];
  return rows;
}

ExpertStacks::ExpertStacks(const std::vector<TensorInfo>& tensors) {
  for (const TensorInfo& tensor : tensors) {
    if (is_stack(tensor)) stacks_.emplace(tensor.name, &tensor);
  }
}

ExpertLayout ExpertStacks::layout(const TensorInfo& tensor) const {
  if (!stacks_.contains(tensor.name)) return ExpertLayout::kNone;
  const bool is_down = tensor.name.find(kGateUp) == std::string::npos;
  const std::string_view own = is_down ? kDown : kGateUp;
  const size_t at = tensor.name.find(own);
  if (at == std::string::npos) return ExpertLayout::kOutputsFirst;
  std::string other = tensor.name;
  other.replace(at, own.size(), is_down ? kGateUp : kDown);
  const auto found = stacks_.find(other);
  if (found == stacks_.end()) return ExpertLayout::kOutputsFirst;
  const TensorInfo& down = is_down ? tensor : *found->second;
  const TensorInfo& gate_up = is_down ? *found->second : tensor;
  const bool inputs_first =
      gate_up.shape[1] == down.shape[2] && gate_up.shape[2] == 2 * down.shape[1];
  return inputs_first ? ExpertLayout::kInputsFirst : ExpertLayout::kOutputsFirst;
}

}  // namespace arrow_quant
