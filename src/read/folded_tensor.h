// What folding factors of input channels does to the tensors of a component: the layers' columns
// are multiplied by them, rows of parameters before the layers are divided. The network stays the
// same function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/dtype.h"
#include "arrow_quant/model_index.h"
#include "io/folds.h"

namespace arrow_quant {

/// What happens to one tensor.
struct TensorFold {
  /// Consecutive rows p that become (p + offset) / f - offset.
  struct Rows {
    uint64_t begin = 0;
    double offset = 0;
    std::vector<float> factors;
  };

  std::vector<float> columns;  ///< factor of each input channel; empty: none
  std::vector<Rows> rows;
};

/// By the name of the tensor.
using TensorFolds = std::map<std::string, TensorFold>;

/// Whether elements of a type can be scaled in place.
bool can_fold(DType dtype) noexcept;

/// What `folds` do to the tensors of `component`. Raises kMetadata, with `path`, when they do not
/// fit these: another shape, a type that cannot be scaled, a row that two folds divide.
TensorFolds tensor_folds(std::span<const ChosenFold> folds, const ModelIndex& component,
                         const std::string& path);

/// Apply a fold to whole rows of a tensor, from `row` on, of `cols` elements each, in place.
void fold_rows(const TensorFold& fold, DType dtype, uint64_t cols, uint64_t row,
               std::span<std::byte> rows);

}  // namespace arrow_quant
