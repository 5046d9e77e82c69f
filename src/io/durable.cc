#include "io/durable.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <limits>
#include <system_error>

#include "arrow_quant/error.h"

namespace arrow_quant {

void fail_output(const std::string& path, const std::string& what, int error) {
  std::string hint;
  if (error == ENOSPC || error == EDQUOT) hint = "Free some space, or write to another disk.";
  if (error == ENAMETOOLONG) hint = "Choose a shorter name.";
  if (error == EFBIG) hint = "A limit on the size of files is set (ulimit -f).";
  if (error == EACCES || error == EPERM || error == EROFS) {
    hint = "Choose a folder that you may write to.";
  }
  throw Error(ErrorCode::kOutput, what + ": " + std::generic_category().message(error),
              {.path = path, .hint = hint});
}

void sync_folder(const std::string& folder) {
  const int fd =
      retry_interrupted([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0) fail_output(folder, "cannot open the folder", errno);
  const int error = retry_interrupted([fd] { return ::fsync(fd); }) == 0 ? 0 : errno;
  ::close(fd);
  if (error != 0) fail_output(folder, "making the folder durable failed", error);
}

uint64_t free_bytes(const std::string& path) noexcept {
  struct statvfs info{};
  if (::statvfs(path.c_str(), &info) != 0) return std::numeric_limits<uint64_t>::max();
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace arrow_quant
