#include "io/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "arrow_quant/error.h"

namespace arrow_quant {
namespace {

constexpr size_t kMaxRead = 64U << 20;  // well below the kernel's limit of 2 GiB per call

int64_t mtime_ns_of(const struct stat& info) noexcept {
  return static_cast<int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

std::string kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

[[noreturn]] void throw_open_error(const std::string& path, int error) {
  if (error == EACCES || error == EPERM) {
    throw Error(ErrorCode::kModelNotFound, "permission denied", {.path = path});
  }
  if (error == ELOOP) {
    throw Error(ErrorCode::kModelNotFound, "symbolic links form a loop", {.path = path});
  }
  if (error == ENXIO) {  // a socket, or a FIFO without a reader
    throw Error(ErrorCode::kMetadata, "expected a regular file", {.path = path});
  }
  throw Error(ErrorCode::kModelNotFound, std::generic_category().message(error), {.path = path});
}

}  // namespace

FileReader::FileReader(std::string path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  fd_ = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd_ < 0) throw_open_error(path_, errno);
  struct stat info{};
  const int failed = ::fstat(fd_, &info) != 0 ? errno : 0;
  if (failed != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    fd_ = -1;
    if (failed != 0) throw_open_error(path_, failed);
    throw Error(ErrorCode::kMetadata, "expected a regular file, found " + kind_of(info.st_mode),
                {.path = path_});
  }
  size_ = static_cast<uint64_t>(info.st_size);
  mtime_ns_ = mtime_ns_of(info);
  inode_ = info.st_ino;
}

FileReader::~FileReader() {
  if (fd_ >= 0) ::close(fd_);
}

FileReader::FileReader(FileReader&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      mtime_ns_(other.mtime_ns_),
      inode_(other.inode_) {}

void FileReader::read_exact(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::pread(fd_, out.data() + done, std::min(out.size() - done, kMaxRead),
                                static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Error(ErrorCode::kMetadata,
                  "reading failed at byte " + std::to_string(offset + done) + ": " +
                      std::generic_category().message(errno),
                  {.path = path_});
    }
    if (got == 0) {
      throw Error(ErrorCode::kMetadata,
                  "expected " + std::to_string(offset + out.size()) + " bytes, the file ends at " +
                      std::to_string(offset + done),
                  {.path = path_,
                   .hint = "The file is shorter than its header says, or changed "
                           "while it was read. Is a download still running?"});
    }
    done += static_cast<size_t>(got);
  }
}

void FileReader::check_unchanged() const {
  struct stat open_file{};
  struct stat named_file{};
  const bool same = ::fstat(fd_, &open_file) == 0 && ::stat(path_.c_str(), &named_file) == 0 &&
                    named_file.st_ino == inode_ && open_file.st_ino == inode_ &&
                    static_cast<uint64_t>(open_file.st_size) == size_ &&
                    mtime_ns_of(open_file) == mtime_ns_;
  if (!same) {
    throw Error(ErrorCode::kMetadata, "the file changed while it was read",
                {.path = path_, .hint = "Wait until whatever writes it has finished, and repeat."});
  }
}

std::string read_text_file(const std::string& path, uint64_t max_bytes) {
  const FileReader reader(path);
  if (reader.size() > max_bytes) {
    throw Error(ErrorCode::kMetadata,
                "expected at most " + std::to_string(max_bytes) + " bytes, found " +
                    std::to_string(reader.size()),
                {.path = path});
  }
  std::string text(reader.size(), '\0');
  reader.read_exact(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace arrow_quant
