// Reads regular files with pread, so that a file that shrinks, vanishes or lives on a network share
// is an error and never a signal.
//
// Opening never hangs (a FIFO, a socket or a device is refused). Reading is thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace arrow_quant {

class FileReader {
 public:
  /// Open `path`. Raises kModelNotFound when it is absent or unreadable, kMetadata when it is not a
  /// regular file.
  explicit FileReader(std::string path);
  ~FileReader();
  FileReader(FileReader&& other) noexcept;
  FileReader& operator=(FileReader&&) = delete;
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  const std::string& path() const noexcept { return path_; }
  uint64_t size() const noexcept { return size_; }
  int64_t mtime_ns() const noexcept { return mtime_ns_; }
  uint64_t inode() const noexcept { return inode_; }

  /// Fill `out` from byte `offset`. Raises kMetadata when the file ends before that.
  void read_exact(uint64_t offset, std::span<std::byte> out) const;

  /// Raise kMetadata when size, modification time or inode differ from those at opening.
  void check_unchanged() const;

 private:
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  int64_t mtime_ns_ = 0;
  uint64_t inode_ = 0;
};

/// The whole text of a small file. Raises kMetadata above `max_bytes`.
std::string read_text_file(const std::string& path, uint64_t max_bytes);

}  // namespace arrow_quant
