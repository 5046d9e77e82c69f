// The bytes of tensors that lie in files of an old layout, at any offset.
//
// Keeps one file open and one row at hand, whatever the number of files: reading tensor after
// tensor decodes every page once. Thread-safe; threads that read the same tensor run at the same
// time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "arrow_quant/model_index.h"

namespace arrow_quant {

/// The scales of a quantized tensor, one per group.
struct LegacyParameters {
  std::vector<float> scales;
  std::vector<float> zero_points;
};

class LegacyReader {
 public:
  explicit LegacyReader(const ModelIndex& component);
  ~LegacyReader();
  LegacyReader(LegacyReader&&) noexcept;

  /// Fill `out` from byte `offset` of `tensor` as it is presented (F32 when it is quantized).
  /// Raises kMetadata when a file is malformed or changed since it was indexed.
  void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const;

  /// The bytes of a quantized tensor's integers as they are stored, all LegacyTensor::data_bytes.
  void read_stored(const TensorInfo& tensor, std::span<std::byte> out) const;

  /// Integers of elements [first, first + out.size()) of a quantized tensor.
  void read_codes(const TensorInfo& tensor, uint64_t first, std::span<int16_t> out) const;

  /// Scales and zero points of a quantized tensor.
  LegacyParameters parameters(const TensorInfo& tensor) const;

  /// Raise kMetadata when a file is no longer the one that was indexed.
  void check_unchanged() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace arrow_quant
