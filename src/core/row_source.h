// Rows of a matrix in memory or in a file, without knowing which.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace arrow_quant {

/// Where the rows of a tensor come from. Must be safe to call from many threads.
class RowSource {
 public:
  virtual ~RowSource() = default;
  /// Bytes of rows [row, row + count), in the source dtype: a view, or `scratch` filled by reading.
  virtual std::span<const std::byte> rows(uint64_t row, uint64_t count,
                                          std::vector<std::byte>& scratch) const = 0;
};

/// Rows that lie in memory already.
class MemoryRows final : public RowSource {
 public:
  MemoryRows(std::span<const std::byte> data, uint64_t row_bytes)
      : data_(data), row_bytes_(row_bytes) {}
  std::span<const std::byte> rows(uint64_t row, uint64_t count,
                                  std::vector<std::byte>& /*scratch*/) const override {
    return data_.subspan(row * row_bytes_, count * row_bytes_);
  }

 private:
  std::span<const std::byte> data_;
  uint64_t row_bytes_;
};

}  // namespace arrow_quant
