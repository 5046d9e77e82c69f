#include "io/arrow_file.h"

#include <arrow/buffer.h>
#include <arrow/status.h>

#include <cstddef>

#include "io/page_memory.h"

namespace arrow_quant {

arrow::Status ArrowFile::Seek(int64_t position) {
  position_ = position;
  return arrow::Status::OK();
}

arrow::Status ArrowFile::check_range(int64_t position, int64_t bytes) const {
  if (position < 0 || bytes < 0 || static_cast<uint64_t>(position) > file_.size() ||
      static_cast<uint64_t>(bytes) > file_.size() - static_cast<uint64_t>(position)) {
    return arrow::Status::IOError("a range beyond the end of the file");
  }
  return arrow::Status::OK();
}

arrow::Result<int64_t> ArrowFile::ReadAt(int64_t position, int64_t bytes, void* out) {
  ARROW_RETURN_NOT_OK(check_range(position, bytes));
  file_.read_exact(static_cast<uint64_t>(position),
                   {static_cast<std::byte*>(out), static_cast<size_t>(bytes)});
  return bytes;
}

arrow::Result<std::shared_ptr<arrow::Buffer>> ArrowFile::ReadAt(int64_t position, int64_t bytes) {
  // Checked before the allocation, so that a damaged length cannot ask for much.
  if (bytes < 0 || static_cast<uint64_t>(bytes) > file_.size()) {
    return arrow::Status::IOError("a range beyond the end of the file");
  }
  ARROW_ASSIGN_OR_RAISE(auto buffer, arrow::AllocateBuffer(bytes, page_memory_pool()));
  ARROW_RETURN_NOT_OK(ReadAt(position, bytes, buffer->mutable_data()).status());
  return std::shared_ptr<arrow::Buffer>(std::move(buffer));
}

arrow::Result<int64_t> ArrowFile::Read(int64_t bytes, void* out) {
  ARROW_ASSIGN_OR_RAISE(const int64_t done, ReadAt(position_, bytes, out));
  position_ += done;
  return done;
}

arrow::Result<std::shared_ptr<arrow::Buffer>> ArrowFile::Read(int64_t bytes) {
  ARROW_ASSIGN_OR_RAISE(auto buffer, ReadAt(position_, bytes));
  position_ += bytes;
  return buffer;
}

}  // namespace arrow_quant
