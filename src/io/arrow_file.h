// Our reader of regular files as Arrow's random-access file, for everything that goes through
// Parquet.
//
// A range beyond the end of the file is refused before anything is allocated for it. ReadAt is
// thread-safe; Tell, Seek and Read, which Parquet does not use for reading, are not.
#pragma once

#include <arrow/io/interfaces.h>
#include <arrow/result.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "io/file_reader.h"

namespace arrow_quant {

class ArrowFile : public arrow::io::RandomAccessFile {
 public:
  explicit ArrowFile(FileReader file) : file_(std::move(file)) {}

  const FileReader& file() const noexcept { return file_; }

  arrow::Status Close() override { return arrow::Status::OK(); }
  bool closed() const override { return false; }
  arrow::Result<int64_t> GetSize() override { return static_cast<int64_t>(file_.size()); }
  arrow::Result<int64_t> Tell() const override { return position_; }
  arrow::Status Seek(int64_t position) override;
  arrow::Result<int64_t> ReadAt(int64_t position, int64_t bytes, void* out) override;
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(int64_t position, int64_t bytes) override;
  arrow::Result<int64_t> Read(int64_t bytes, void* out) override;
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t bytes) override;

 protected:
  /// An error unless the file has these bytes.
  arrow::Status check_range(int64_t position, int64_t bytes) const;

 private:
  FileReader file_;
  int64_t position_ = 0;
};

}  // namespace arrow_quant
