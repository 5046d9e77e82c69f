#include "io/staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "arrow_quant/error.h"
#include "arrow_quant/format.h"
#include "io/file_reader.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

constexpr size_t kCopyBlock = 4U << 20;

[[noreturn]] void fail(const fs::path& path, const std::string& what,
                       const std::string& hint = {}) {
  throw Error(ErrorCode::kOutput, what, {.path = path.string(), .hint = hint});
}

[[noreturn]] void fail_errno(const fs::path& path, const char* what) {
  fail(path, std::string(what) + ": " + std::generic_category().message(errno));
}

// A manifest of ours, as far as the first lines tell: enough to allow that the folder is replaced.
bool is_artefact(const fs::path& folder) {
  const fs::path manifest = folder / kManifestFile;
  if (!fs::is_regular_file(manifest)) return false;
  const std::string text = read_text_file(manifest.string(), 1U << 30);
  return text.find(std::string("\"format\": \"") + kFormatName + "\"") != std::string::npos;
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno(folder, "cannot open the folder");
  const bool synced = ::fsync(fd) == 0;
  ::close(fd);
  if (!synced) fail_errno(folder, "making the folder durable failed");
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void check_free_space(const fs::path& folder, uint64_t planned_bytes) {
  struct statvfs info{};
  if (::statvfs(folder.c_str(), &info) != 0) return;
  const uint64_t free = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  const uint64_t needed = planned_bytes + planned_bytes / 20;
  if (free < needed) {
    fail(folder, "not enough space: " + std::to_string(needed) + " bytes needed, " +
                     std::to_string(free) + " free");
  }
}

}  // namespace

Staging::Staging(const std::string& output, bool overwrite, uint64_t planned_bytes)
    : overwrite_(overwrite) {
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
    // Whoever holds the lock owns every staging folder of this output: older ones are stale.
    const std::string prefix = "." + name + ".staging-";
    for (const fs::directory_entry& entry : fs::directory_iterator(parent)) {
      if (entry.path().filename().string().starts_with(prefix)) fs::remove_all(entry.path());
    }
    staging_ = (parent / (prefix + std::to_string(::getpid()))).string();
    if (!fs::create_directory(staging_)) fail(staging_, "the staging folder already exists");
  } catch (const fs::filesystem_error& e) {
    unlock();
    remove_parents();
    fail(parent, e.code().message());
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
  if (!is_artefact(output_)) {
    fail(output_, "the folder is not empty and not an artefact of ours",
         "It is never replaced. Choose another path.");
  }
  if (!overwrite_) fail(output_, "the output exists", "Pass overwrite=True (--overwrite).");
}

void Staging::lock() {
  while (true) {
    lock_fd_ = ::open(lock_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (lock_fd_ < 0) fail_errno(lock_path_, "cannot create the lock file");
    if (::flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      ::close(std::exchange(lock_fd_, -1));
      if (error == EWOULDBLOCK) fail(output_, "another process is writing this output");
      errno = error;
      fail_errno(lock_path_, "cannot lock");
    }
    // The file may have been removed by its last owner between our open and our lock.
    struct stat held{};
    struct stat named{};
    const bool same = ::fstat(lock_fd_, &held) == 0 && ::stat(lock_path_.c_str(), &named) == 0 &&
                      held.st_ino == named.st_ino;
    if (same) return;
    ::close(std::exchange(lock_fd_, -1));
  }
}

void Staging::unlock() noexcept {
  if (lock_fd_ < 0) return;
  ::unlink(lock_path_.c_str());
  ::close(std::exchange(lock_fd_, -1));
}

std::unique_ptr<StagedFile> Staging::create(const std::string& relative) {
  std::error_code error;
  const fs::path folder = (fs::path(staging_) / relative).parent_path();
  fs::create_directories(folder, error);
  if (error) fail(folder, "cannot create the folder: " + error.message());
  return std::make_unique<StagedFile>(staging_, relative);
}

FileRecord Staging::copy(const std::string& source, const std::string& relative,
                         const std::function<void()>& poll) {
  const FileReader reader(source);
  const std::unique_ptr<StagedFile> file = create(relative);
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

void Staging::clear() {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(staging_, error)) {
    fs::remove_all(entry.path(), error);
  }
  if (error) fail(staging_, "cannot empty the staging folder: " + error.message());
}

void Staging::commit(const std::string& manifest) {
  const std::unique_ptr<StagedFile> file = create(kManifestFile);
  file->write(std::as_bytes(std::span(manifest)));
  file->close();
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(staging_)) {
    if (entry.is_directory()) sync_folder(entry.path());
  }
  sync_folder(staging_);

  const fs::path parent = parent_of(staging_);
  if (::rename(staging_.c_str(), output_.c_str()) == 0) {  // absent, or an empty folder
    staging_.clear();
    sync_folder(parent);
    for (const std::string& folder : std::exchange(made_parents_, {})) {
      sync_folder(parent_of(folder));
    }
    return;
  }
  if (errno != ENOTEMPTY && errno != EEXIST) fail_errno(output_, "the final rename failed");
  check_output();  // what is there now may not be what was there at the start
  if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, output_.c_str(), RENAME_EXCHANGE) != 0) {
    fail_errno(output_, "exchanging the old artefact for the new one failed");
  }
  sync_folder(parent);  // the old artefact is in the staging folder now; the destructor removes it
}

}  // namespace arrow_quant
