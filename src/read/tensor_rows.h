// Rows of a tensor of the model, as its files have them or with a fold applied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "arrow_quant/dtype.h"
#include "arrow_quant/model_index.h"
#include "core/row_source.h"
#include "read/folded_tensor.h"
#include "read/tensor_reader.h"

namespace arrow_quant {

class TensorRows final : public RowSource {
 public:
  /// Rows of `cols` elements; `fold` may be null. Everything must outlive this object.
  TensorRows(const TensorReader& reader, const TensorInfo& tensor, uint64_t cols,
             const TensorFold* fold = nullptr)
      : reader_(reader), tensor_(tensor), cols_(cols), fold_(fold) {}

  std::span<const std::byte> rows(uint64_t row, uint64_t count,
                                  std::vector<std::byte>& scratch) const override {
    const uint64_t row_bytes = cols_ * dtype_info(tensor_.dtype).bits / 8;
    const size_t bytes = count * row_bytes;
    if (scratch.size() < bytes) scratch.resize(bytes);
    const std::span<std::byte> target = std::span(scratch).first(bytes);
    reader_.read(tensor_, row * row_bytes, target);
    if (fold_ != nullptr) fold_rows(*fold_, tensor_.dtype, cols_, row, target);
    return target;
  }

 private:
  const TensorReader& reader_;
  const TensorInfo& tensor_;
  uint64_t cols_;
  const TensorFold* fold_;
};

}  // namespace arrow_quant
