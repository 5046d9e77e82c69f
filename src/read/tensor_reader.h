// Bytes of the tensors of one component. Files are opened once and must still be the ones whose
// headers were checked. Reading is thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arrow_quant/model_index.h"
#include "io/file_reader.h"
#include "read/legacy/reader.h"

namespace arrow_quant {

class TensorReader {
 public:
  /// Raises kMetadata when a file is not the one that `component` describes.
  explicit TensorReader(const ModelIndex& component);

  /// Fill `out` from byte `offset` of `tensor`; the caller keeps within tensor.nbytes.
  void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
    if (legacy_) return legacy_->read(tensor, offset, out);
    files_[tensor.file].read_exact(tensor.offset + offset, out);
  }

  /// Raise kMetadata when a file changed since it was opened. Call after the last read.
  void check_unchanged() const;

 private:
  std::vector<FileReader> files_;
  std::optional<LegacyReader> legacy_;  // instead of files_, for an old Parquet layout
};

}  // namespace arrow_quant
