// A file that is being written in the staging folder: hashed on the way, pushed to the disk early,
// and durable when `close` returns.
//
// Not thread-safe. A file that is destroyed without `close` is left for the staging folder to
// remove.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "arrow_quant/manifest.h"
#include "core/hash.h"

namespace arrow_quant {

class StagedFile {
 public:
  /// Create `folder`/`relative`, which must not exist. Raises kOutput.
  StagedFile(const std::string& folder, std::string relative);
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  void write(std::span<const std::byte> bytes);
  uint64_t size() const noexcept { return record_.size; }
  const std::string& full_path() const noexcept { return full_path_; }

  /// Make everything durable and close. Raises kOutput; the file then counts as lost.
  FileRecord close();

 private:
  [[noreturn]] void fail(const char* what, int error) const;
  void start_write_out();

  FileRecord record_;
  std::string full_path_;
  int fd_ = -1;
  uint64_t written_out_ = 0;  // bytes whose write-out has been started
  Hasher hasher_;
};

}  // namespace arrow_quant
