// The commit protocol: everything is written in a hidden folder beside the output; one rename makes
// it the output. At any moment the output path is unchanged or complete.
//
// One process works on one output at a time: a lock file beside it says so, and never outlives a
// normal end. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/staged_file.h"

namespace arrow_quant {

class Staging {
 public:
  /// Take the lock and make an empty staging folder. `planned_bytes` must be free on the disk. An
  /// existing artefact of ours at `output` is replaced at commit only if `overwrite`, and only if
  /// its folder holds nothing else. Raises kOutput.
  Staging(const std::string& output, bool overwrite, uint64_t planned_bytes);
  /// Removes the staging folder, unless committed, and the lock.
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// The staging folder.
  const std::string& path() const noexcept { return staging_; }

  /// Create a file; its folders are made as needed. `size`, unless 0, is reserved on the disk.
  std::unique_ptr<StagedFile> create(const std::string& relative, uint64_t size = 0);

  /// Copy `source` bit for bit. `poll` runs between blocks.
  FileRecord copy(const std::string& source, const std::string& relative,
                  const std::function<void()>& poll);

  /// Write `manifest` as the last file and turn the staging folder into the output.
  void commit(const std::string& manifest);

 private:
  void check_output() const;
  void make_staging_folder(const std::string& parent, const std::string& prefix);
  void make_parents(const std::string& parent);
  void lock();
  void unlock() noexcept;
  void remove_parents() noexcept;

  bool overwrite_;
  std::vector<std::string> made_parents_;  // from the outermost; removed again without a commit
  std::string output_;
  std::string staging_;
  std::string lock_path_;
  int lock_fd_ = -1;
  uint64_t files_ = 0;  // created so far
};

}  // namespace arrow_quant
