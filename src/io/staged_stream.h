// A staged file as Arrow's output stream. Not thread-safe.
#pragma once

#include <arrow/io/interfaces.h>

#include <cstddef>
#include <cstdint>

#include "io/staged_file.h"

namespace arrow_quant {

/// Writes to `file`, which outlives it. Our own errors pass through Arrow as exceptions.
class StagedStream final : public arrow::io::OutputStream {
 public:
  explicit StagedStream(StagedFile& file) : file_(file) {}

  arrow::Status Close() override {
    closed_ = true;
    return arrow::Status::OK();
  }
  bool closed() const override { return closed_; }
  arrow::Result<int64_t> Tell() const override { return static_cast<int64_t>(file_.size()); }
  arrow::Status Write(const void* data, int64_t size) override {
    file_.write({static_cast<const std::byte*>(data), static_cast<size_t>(size)});
    return arrow::Status::OK();
  }

 private:
  StagedFile& file_;
  bool closed_ = false;
};

}  // namespace arrow_quant
