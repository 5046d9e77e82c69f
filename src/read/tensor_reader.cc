#include "read/tensor_reader.h"

#include "arrow_quant/error.h"

namespace arrow_quant {

TensorReader::TensorReader(const ModelIndex& component) {
  if (component.legacy) {
    legacy_.emplace(component);
    return;
  }
  files_.reserve(component.files.size());
  for (const SourceFile& expected : component.files) {
    const FileReader& file = files_.emplace_back(expected.path);
    if (file.size() != expected.size || file.mtime_ns() != expected.mtime_ns ||
        file.inode() != expected.inode) {
      throw Error(ErrorCode::kMetadata, "the file changed since its header was read",
                  {.path = expected.path, .hint = "Wait until whatever writes it has finished."});
    }
  }
}

void TensorReader::check_unchanged() const {
  if (legacy_) legacy_->check_unchanged();
  for (const FileReader& file : files_) file.check_unchanged();
}

}  // namespace arrow_quant
