// A file that is being written in the staging folder: hashed on the way, pushed to the disk early.
// It has a provisional name until `close` has made it durable under its own.
//
// Not thread-safe. A file that is destroyed without `close` is gone.
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
  struct Names {
    std::string relative;     ///< as the manifest names it
    std::string final_path;   ///< must not exist, unless `replaces`
    std::string provisional;  ///< on the same disk
    bool replaces = false;    ///< a file of the final name is replaced, in one step
  };

  /// Create the file. `size`, unless 0, is what it will have: the space is taken at once. Raises
  /// kOutput.
  explicit StagedFile(Names names, uint64_t size = 0);
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  void write(std::span<const std::byte> bytes);
  uint64_t size() const noexcept { return record_.size; }

  /// Where the file is once it is closed.
  const std::string& final_path() const noexcept { return names_.final_path; }

  /// Make everything durable and give the file its name. Raises kOutput; the file is then gone.
  FileRecord close();

 private:
  void reserve(uint64_t size);
  [[noreturn]] void fail_write(uint64_t missing, int error) const;
  void start_write_out();

  FileRecord record_;
  Names names_;
  int fd_ = -1;
  bool exists_ = false;       // under its provisional name
  uint64_t written_out_ = 0;  // bytes whose write-out has been started
  Hasher hasher_;
};

}  // namespace arrow_quant
