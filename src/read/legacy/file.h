// One Parquet file of an old layout: what its rows are, and the bytes of one row at a time.
//
// The file is read page by page; at most one page of `data` (as written by the usual tools, the
// rows of one row group) is in memory, and what the file declares bounds what it can make us
// allocate. Page checksums are verified where the file has them. Not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arrow_quant/model_index.h"
#include "read/legacy/decode.h"
#include "read/legacy/record.h"
#include "read/legacy/schema.h"
#include "read/legacy/tensor.h"

namespace arrow_quant {

class LegacyFile {
 public:
  /// Open `path` and read its footer and the sizes of its tensors. Raises kModelNotFound or
  /// kMetadata.
  explicit LegacyFile(const std::string& path);
  ~LegacyFile();
  LegacyFile(LegacyFile&&) noexcept;

  LegacyLayout layout() const noexcept;
  /// What the file was when it was opened.
  SourceFile identity() const;

  /// Every row; reads the whole file once. Raises kMetadata or kShapeMismatch.
  std::vector<LegacyRecord> records();

  /// The large columns of a row that `records` gave, checked against `tensor`. Valid until the next
  /// call. In ascending order, every page is read once. Raises kMetadata or kShapeMismatch.
  const LegacyValue& value(const LegacyTensor& tensor, const std::string& name);

 private:
  class RowGroupCursor;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace arrow_quant
