#include "io/staged_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "io/durable.h"

namespace arrow_quant {
namespace {

// The disk gets work in windows, and may be a few behind: it never idles while the next bytes are
// made, and the last fsync stays short, so that a cancelled job stops at once.
constexpr uint64_t kWriteOutWindow = 8U << 20;
constexpr uint64_t kWriteOutLag = 4 * kWriteOutWindow;

}  // namespace

StagedFile::StagedFile(Names names, uint64_t size) : names_(std::move(names)) {
  record_.path = names_.relative;
  struct stat info{};
  if (!names_.replaces && ::lstat(names_.final_path.c_str(), &info) == 0) {
    fail_output(names_.final_path, "cannot create the file", EEXIST);
  }
  fd_ = retry_interrupted([this] {
    return ::open(names_.provisional.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  });
  if (fd_ < 0) fail_output(names_.final_path, "cannot create the file", errno);
  exists_ = true;
  try {
    reserve(size);
  } catch (...) {
    ::close(fd_);
    ::unlink(names_.provisional.c_str());
    throw;
  }
}

StagedFile::~StagedFile() {
  if (fd_ >= 0) ::close(fd_);
  if (exists_) ::unlink(names_.provisional.c_str());
}

// A full disk is found before the work instead of after it. Where the file system cannot do that,
// write finds it.
void StagedFile::reserve([[maybe_unused]] uint64_t size) {
#ifdef __linux__
  if (size == 0) return;
  const auto length = static_cast<off_t>(size);
  if (retry_interrupted([&] { return ::fallocate(fd_, 0, 0, length); }) == 0) return;
  if (errno != EOPNOTSUPP && errno != ENOSYS) fail_write(size, errno);
#endif
}

void StagedFile::fail_write(uint64_t missing, int error) const {
  std::string what = "writing failed";
  if (error == ENOSPC || error == EDQUOT) {
    what += " (at least " + std::to_string(missing) + " more bytes needed, " +
            std::to_string(free_bytes(names_.provisional)) + " free)";
  }
  fail_output(names_.final_path, what, error);
}

void StagedFile::write(std::span<const std::byte> bytes) {
  hasher_.update(bytes);
  while (!bytes.empty()) {
    const size_t size = std::min<size_t>(bytes.size(), kWriteOutWindow);
    const ssize_t done = retry_interrupted([&] { return ::write(fd_, bytes.data(), size); });
    if (done <= 0) fail_write(bytes.size(), done < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<size_t>(done));
    record_.size += static_cast<uint64_t>(done);
    start_write_out();
  }
}

// Best effort: where the kernel or file system lacks it, fsync at the end does all the work.
void StagedFile::start_write_out() {
#ifdef SYNC_FILE_RANGE_WRITE
  while (record_.size - written_out_ >= kWriteOutWindow) {
    const auto begin = static_cast<off64_t>(written_out_);
    ::sync_file_range(fd_, begin, kWriteOutWindow, SYNC_FILE_RANGE_WRITE);
    if (written_out_ >= kWriteOutLag) {
      ::sync_file_range(
          fd_, begin - static_cast<off64_t>(kWriteOutLag), kWriteOutWindow,
          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    }
    written_out_ += kWriteOutWindow;
  }
#endif
}

FileRecord StagedFile::close() {
  // After a failed fsync nobody knows what is on the disk: there is no second try.
  if (retry_interrupted([this] { return ::fsync(fd_); }) != 0) {
    fail_output(names_.final_path, "making the file durable failed", errno);
  }
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) {
    fail_output(names_.final_path, "closing the file failed", errno);
  }
  if (::rename(names_.provisional.c_str(), names_.final_path.c_str()) != 0) {
    fail_output(names_.final_path, "renaming the file failed", errno);
  }
  exists_ = false;
  sync_folder(std::filesystem::path(names_.final_path).parent_path().string());
  record_.hash = hasher_.hex();
  return record_;
}

}  // namespace arrow_quant
