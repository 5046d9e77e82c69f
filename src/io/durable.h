// The few calls that make files and folders survive a crash. Each raises kOutput, with the path.
#pragma once

#include <cerrno>
#include <cstdint>
#include <string>

namespace arrow_quant {

/// Raise kOutput for `error`, an errno.
[[noreturn]] void fail_output(const std::string& path, const std::string& what, int error);

/// Call `work` again as long as a signal interrupts it.
template <typename Work>
auto retry_interrupted(Work work) {
  while (true) {
    const auto result = work();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/// Make the names in `folder` durable.
void sync_folder(const std::string& folder);

/// Bytes free for this user on the disk of `path`; all of them when that is unknown.
uint64_t free_bytes(const std::string& path) noexcept;

}  // namespace arrow_quant
