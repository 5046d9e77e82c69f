#include "io/staged_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "arrow_quant/error.h"

namespace arrow_quant {
namespace {

// Small windows keep the last fsync short, so that a cancelled job stops at once.
constexpr uint64_t kWriteOutWindow = 8U << 20;

}  // namespace

StagedFile::StagedFile(const std::string& folder, std::string relative)
    : full_path_(folder + "/" + relative) {
  record_.path = std::move(relative);
  fd_ = ::open(full_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot create the file", errno);
}

StagedFile::~StagedFile() {
  if (fd_ >= 0) ::close(fd_);
}

void StagedFile::fail(const char* what, int error) const {
  std::string message = std::string(what) + ": " + std::generic_category().message(error);
  std::string hint;
  struct statvfs info{};
  if ((error == ENOSPC || error == EDQUOT) && ::statvfs(full_path_.c_str(), &info) == 0) {
    message += " (" + std::to_string(record_.size) + " bytes written, " +
               std::to_string(info.f_bavail * info.f_frsize) + " free)";
    hint = "Free some space, or write to another disk.";
  }
  throw Error(ErrorCode::kOutput, message, {.path = full_path_, .hint = hint});
}

void StagedFile::write(std::span<const std::byte> bytes) {
  hasher_.update(bytes);
  while (!bytes.empty()) {
    const ssize_t done =
        ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), kWriteOutWindow));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("writing failed", errno);
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
    if (written_out_ >= kWriteOutWindow) {
      ::sync_file_range(
          fd_, begin - static_cast<off64_t>(kWriteOutWindow), kWriteOutWindow,
          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    }
    written_out_ += kWriteOutWindow;
  }
#endif
}

FileRecord StagedFile::close() {
  if (::fsync(fd_) != 0) fail("making the file durable failed", errno);
  if (::close(std::exchange(fd_, -1)) != 0) fail("closing failed", errno);
  record_.hash = hasher_.hex();
  return record_;
}

}  // namespace arrow_quant
