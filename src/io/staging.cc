#include "io/staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "core/json.h"
#include "io/durable.h"
#include "io/file_reader.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr size_t kCopyBlock = 4U << 20;

[[noreturn]] void fail(const fs::path& path, const std::string& what,
                       const std::string& hint = {}) {
  throw Error(ErrorCode::kOutput, what, {.path = path.string(), .hint = hint});
}

/// Run `work`; what the file system library throws becomes our own error.
template <typename Work>
auto with_errors(const fs::path& path, Work work) {
  try {
    return work();
  } catch (const fs::filesystem_error& e) {
    fail(path, e.code().message());
  }
}

// Relative paths of all files below `folder`; folders themselves do not count.
std::set<std::string> files_below(const fs::path& folder) {
  std::set<std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory() && !entry.is_symlink()) continue;
    files.insert(entry.path().lexically_relative(folder).generic_string());
  }
  return files;
}

// What the manifest in `folder` says, if it is one of ours. A damaged artefact may be replaced, so
// hashes are not looked at.
std::optional<nlohmann::json> our_manifest(const fs::path& folder) {
  std::error_code error;
  const fs::path path = folder / kManifestFile;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  try {
    const JsonLimits limits;
    auto manifest = parse_json(read_text_file(path.string(), limits.max_bytes), path.string());
    const bool ours = manifest.is_object() &&
                      manifest.value("format", nlohmann::json()) == nlohmann::json(kFormatName);
    return ours ? std::optional(std::move(manifest)) : std::nullopt;
  } catch (const Error&) {  // no JSON, or unreadable: nothing that we know
    return std::nullopt;
  }
}

// A file that the manifest does not name: someone else's, which must not go with the artefact.
std::optional<std::string> foreign_file(const fs::path& folder, const nlohmann::json& manifest) {
  std::set<std::string> files = files_below(folder);
  files.erase(kManifestFile);
  for (const nlohmann::json& entry : manifest.value("files", nlohmann::json::array())) {
    const auto path = entry.is_object() ? entry.find("path") : entry.end();
    if (path != entry.end() && path->is_string()) files.erase(path->get<std::string>());
  }
  return files.empty() ? std::nullopt : std::optional(*files.begin());
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void check_free_space(const fs::path& folder, uint64_t planned_bytes) {
  const uint64_t free = free_bytes(folder.string());
  const uint64_t needed = planned_bytes + planned_bytes / 20;
  if (free < needed) {
    fail(folder,
         "not enough space: " + std::to_string(needed) + " bytes needed, " + std::to_string(free) +
             " free",
         "Free some space, or write to another disk.");
  }
}

// Who holds the lock is only for the message of the second one: the lock itself is flock, which
// ends with its owner.
void write_owner(int fd) noexcept {
  const std::string text = std::to_string(::getpid()) + "\n";
  [[maybe_unused]] const bool written =
      ::ftruncate(fd, 0) == 0 && ::pwrite(fd, text.data(), text.size(), 0) >= 0;
}

std::string read_owner(int fd) {
  std::array<char, 16> text{};
  const ssize_t size = ::pread(fd, text.data(), text.size(), 0);
  const std::string pid(text.data(), static_cast<size_t>(std::max<ssize_t>(0, size)));
  const size_t digits = pid.find_first_not_of("0123456789");
  return digits == 0 || digits == std::string::npos ? "" : ": process " + pid.substr(0, digits);
}

}  // namespace

Staging::Staging(const std::string& output, bool overwrite, uint64_t planned_bytes)
    : overwrite_(overwrite) {
  if (output.find('\0') != std::string::npos) fail("", "the output's name contains a NUL byte");
  fs::path path = fs::path(output).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "out/"
  if (path.empty() || path.filename() == "." || path.filename() == "..") {
    fail(output, "expected the name of a folder to create");
  }
  output_ = path.string();
  check_output();
  const fs::path parent = parent_of(path);
  const std::string name = path.filename().string();
  lock_path_ = (parent / ("." + name + ".lock")).string();
  try {
    make_parents(parent.string());
    check_free_space(parent, planned_bytes);
    lock();
    check_output();  // whoever held the lock a moment ago may have finished
    with_errors(parent, [&] { make_staging_folder(parent.string(), "." + name + ".staging-"); });
  } catch (...) {
    unlock();
    remove_parents();
    throw;
  }
}

Staging::~Staging() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
  unlock();
  remove_parents();
}

// Whoever holds the lock owns every staging folder of this output: older ones are stale.
void Staging::make_staging_folder(const std::string& parent, const std::string& prefix) {
  for (const fs::directory_entry& entry : fs::directory_iterator(parent)) {
    if (entry.path().filename().string().starts_with(prefix)) fs::remove_all(entry.path());
  }
  const fs::path folder = fs::path(parent) / (prefix + std::to_string(::getpid()));
  if (!fs::create_directory(folder)) fail(folder, "the staging folder already exists");
  staging_ = folder.string();
}

void Staging::make_parents(const std::string& parent) {
  std::error_code error;
  std::vector<std::string> missing;
  for (fs::path folder = parent; !folder.empty() && !fs::exists(folder, error);
       folder = folder.parent_path()) {
    missing.push_back(folder.string());
  }
  for (; !missing.empty(); missing.pop_back()) {
    const std::string& folder = missing.back();
    if (fs::create_directory(folder, error)) made_parents_.push_back(folder);
    if (error) fail(folder, "cannot create the folder: " + error.message());
  }
}

// Only those that are still empty go.
void Staging::remove_parents() noexcept {
  for (; !made_parents_.empty(); made_parents_.pop_back()) ::rmdir(made_parents_.back().c_str());
}

void Staging::check_output() const {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(output_, error);
  if (!fs::exists(status)) return;
  if (fs::is_symlink(status))
    fail(output_, "the output is a symbolic link", "Choose another path.");
  if (!fs::is_directory(status)) fail(output_, "the output is a file", "Choose another path.");
  if (fs::is_empty(output_, error) && !error) return;
  if (error) fail(output_, error.message());
  const auto manifest = our_manifest(output_);
  if (!manifest) {
    fail(output_, "the folder is not empty and not an artefact of ours",
         "It is never replaced. Choose another path.");
  }
  if (!overwrite_) fail(output_, "the output exists", "Pass overwrite=True (--overwrite).");
  const auto foreign = with_errors(output_, [&] { return foreign_file(output_, *manifest); });
  if (foreign) {
    fail(output_, "the folder holds a file that is not part of the artefact: " + *foreign,
         "Move it away, or choose another path.");
  }
}

void Staging::lock() {
  while (true) {
    lock_fd_ = retry_interrupted([this] {
      return ::open(lock_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    });
    if (lock_fd_ < 0) fail_output(lock_path_, "cannot create the lock file", errno);
    if (retry_interrupted([this] { return ::flock(lock_fd_, LOCK_EX | LOCK_NB); }) != 0) {
      const int error = errno;
      const std::string owner = read_owner(lock_fd_);
      ::close(std::exchange(lock_fd_, -1));
      if (error == EWOULDBLOCK) {
        fail(output_, "another process is writing this output" + owner, "Wait until it is done.");
      }
      fail_output(lock_path_, "cannot lock", error);
    }
    // The file may have been removed by its last owner between our open and our lock.
    struct stat held{};
    struct stat named{};
    const bool same = ::fstat(lock_fd_, &held) == 0 && ::stat(lock_path_.c_str(), &named) == 0 &&
                      held.st_ino == named.st_ino;
    if (same) return write_owner(lock_fd_);
    ::close(std::exchange(lock_fd_, -1));
  }
}

void Staging::unlock() noexcept {
  if (lock_fd_ < 0) return;
  ::unlink(lock_path_.c_str());
  ::close(std::exchange(lock_fd_, -1));
}

std::unique_ptr<StagedFile> Staging::create(const std::string& relative, uint64_t size) {
  std::error_code error;
  const fs::path path = fs::path(staging_) / relative;
  fs::create_directories(path.parent_path(), error);
  if (error) fail(path.parent_path(), "cannot create the folder: " + error.message());
  // A number, so that the provisional name is never too long for the file system.
  const std::string provisional = staging_ + "/.partial-" + std::to_string(files_++);
  return std::make_unique<StagedFile>(StagedFile::Names{relative, path.string(), provisional},
                                      size);
}

FileRecord Staging::copy(const std::string& source, const std::string& relative,
                         const std::function<void()>& poll) {
  const FileReader reader(source);
  const std::unique_ptr<StagedFile> file = create(relative, reader.size());
  std::vector<std::byte> block(std::min<uint64_t>(kCopyBlock, reader.size()));
  for (uint64_t offset = 0; offset < reader.size(); offset += block.size()) {
    const std::span<std::byte> part =
        std::span(block).first(std::min<uint64_t>(block.size(), reader.size() - offset));
    reader.read_exact(offset, part);
    file->write(part);
    poll();
  }
  reader.check_unchanged();
  return file->close();
}

// Only folders are left to do: files were made durable one by one.
void Staging::commit(const std::string& manifest) {
  const std::unique_ptr<StagedFile> file = create(kManifestFile, manifest.size());
  file->write(std::as_bytes(std::span(manifest)));
  file->close();
  with_errors(staging_, [this] {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(staging_)) {
      if (entry.is_directory()) sync_folder(entry.path().string());
    }
  });
  sync_folder(staging_);

  const fs::path parent = parent_of(staging_);
  if (::rename(staging_.c_str(), output_.c_str()) == 0) {  // absent, or an empty folder
    staging_.clear();
    sync_folder(parent.string());
    for (const std::string& folder : std::exchange(made_parents_, {})) {
      sync_folder(parent_of(folder).string());
    }
    return;
  }
  if (errno != ENOTEMPTY && errno != EEXIST) fail_output(output_, "the final rename failed", errno);
  check_output();  // what is there now may not be what was there at the start
  if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, output_.c_str(), RENAME_EXCHANGE) != 0) {
    fail_output(output_, "exchanging the old artefact for the new one failed", errno);
  }
  sync_folder(
      parent.string());  // the old artefact is in the staging folder now; the destructor removes it
}

}  // namespace arrow_quant
