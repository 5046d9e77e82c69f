// Stacks of experts: the weights of all experts of a layer in one tensor of three dimensions.
//
// [experts, outputs, inputs] is quantized like as many linear layers: a row for each expert and
// output. Some networks store [experts, inputs, outputs]: there a row is a whole expert, as groups
// along the inputs would not follow one another in memory.
#pragma once

#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "arrow_quant/model_index.h"

namespace arrow_quant {

/// The order of the dimensions of a stack, or that a tensor is none.
enum class ExpertLayout : uint8_t { kNone, kOutputsFirst, kInputsFirst };

/// How many dimensions make the rows of the matrix that is quantized.
constexpr int row_dimensions(ExpertLayout layout) noexcept {
  return layout == ExpertLayout::kOutputsFirst ? 2 : 1;
}

/// Rows of a tensor that is not a scalar, whose first `row_dimensions` make them.
uint64_t matrix_rows(const TensorInfo& tensor, int row_dimensions) noexcept;

/// The stacks of a component, as names and shapes tell.
class ExpertStacks {
 public:
  /// `tensors` must outlive this.
  explicit ExpertStacks(const std::vector<TensorInfo>& tensors);

  /// Whether a tensor is a stack: three dimensions, and a name like `mlp.experts.down_proj`. Gate
  /// and up projections in one tensor have twice the outputs that `down_proj` has inputs, which
  /// tells the order; outputs come first where nothing tells it.
  ExpertLayout layout(const TensorInfo& tensor) const;

 private:
  std::map<std::string_view, const TensorInfo*> stacks_;
};

}  // namespace arrow_quant
