// Staging when the system fails it: every call that changes the disk is made to fail, to be
// interrupted, to write less than asked, or to be the last one before the process is killed.
//
// The calls below take the place of the C library's for everything in this program.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <functional>
#include <span>
#include <string>

#include "arrow_quant/error.h"
#include "arrow_quant/manifest.h"
#include "io/staging.h"
#include "support/temp_folder.h"
#include "write/manifest.h"

namespace {

enum class Fault { kNone, kKillBefore, kKillAfter, kError, kInterrupt, kShortWrite };

struct FaultPlan {
  Fault fault = Fault::kNone;
  int error = 0;
  int at = 0;     // number of the call, from 1
  int calls = 0;  // seen so far
};
FaultPlan plan;

/// Does `real`, unless the plan has something else for this call.
template <typename Real>
auto intercept(Real real) -> decltype(real()) {
  using Result = decltype(real());
  if (plan.fault == Fault::kNone || ++plan.calls != plan.at) return real();
  switch (plan.fault) {
    case Fault::kKillBefore:
      ::kill(::getpid(), SIGKILL);
      break;
    case Fault::kKillAfter: {
      const Result result = real();
      ::kill(::getpid(), SIGKILL);
      return result;
    }
    case Fault::kError:
      errno = plan.error;
      return Result{-1};
    case Fault::kInterrupt:
      errno = EINTR;
      return Result{-1};
    default:
      break;
  }
  return real();
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  return intercept([&] {
    const bool cut = plan.fault == Fault::kShortWrite && plan.calls == plan.at && size > 1;
    return static_cast<ssize_t>(::syscall(SYS_write, fd, data, cut ? size / 2 : size));
  });
}

int fsync(int fd) {
  return intercept([&] { return static_cast<int>(::syscall(SYS_fsync, fd)); });
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  return intercept(
      [&] { return static_cast<int>(::syscall(SYS_fallocate, fd, mode, offset, length)); });
}

int rename(const char* from, const char* to) noexcept {
  return intercept(
      [&] { return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0)); });
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned int flags) noexcept {
  return intercept([&] {
    return static_cast<int>(::syscall(SYS_renameat2, from_folder, from, to_folder, to, flags));
  });
}

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  const auto real = [&] {
    return static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags, mode));
  };
  return (flags & (O_CREAT | O_DIRECTORY)) != 0 ? intercept(real) : real();  // not mere readers
}

}  // extern "C"

namespace arrow_quant {
namespace {

using testing::names_in;
using testing::read_tree;
using testing::TempFolder;
using testing::write_file;
namespace fs = std::filesystem;

using Names = std::set<std::string>;
using Tree = std::map<std::string, std::string>;

void put(Staging& staging, const std::string& name, const std::string& text) {
  const auto file = staging.create(name);
  file->write(std::as_bytes(std::span(text)));
  file->close();
}

/// An artefact with a file in a folder, a copy, and `text` in all of it.
void write_artefact(const std::string& output, const std::string& source, const std::string& text) {
  Staging staging(output, true, 0);
  put(staging, "unet/weights", text + " weights");
  staging.copy(source, "config", [] {});
  staging.commit(write_manifest(
      {.tool_version = text, .files = {{.path = "config"}, {.path = "unet/weights"}}}));
}

class StagingFaults : public ::testing::TestWithParam<bool> {
 protected:
  StagingFaults() {
    write_file(source_, "a config");
    write_artefact(temp_ / "old", source_, "old");
    write_artefact(temp_ / "new", source_, "new");
    old_ = read_tree(temp_ / "old");
    new_ = read_tree(temp_ / "new");
    restore();
  }
  ~StagingFaults() override { plan = {}; }

  /// With an old artefact at the output, or without.
  void restore() const {
    fs::remove_all(out_);
    fs::create_directory(out_.parent_path());
    if (GetParam()) fs::copy(temp_ / "old", out_, fs::copy_options::recursive);
  }

  /// What was there before, nothing but that; or the complete new artefact.
  void expect_old_or_new() const {
    if (!fs::exists(out_)) {
      EXPECT_FALSE(GetParam());
      return;
    }
    const Tree tree = read_tree(out_);
    EXPECT_TRUE(tree == new_ || (GetParam() && tree == old_));
  }

  void run() const { write_artefact(out_, source_, "new"); }

  const TempFolder temp_;
  const std::string source_ = temp_ / "source";
  const fs::path out_ = fs::path(temp_ / "work") / "out";
  Tree old_;
  Tree new_;
};

TEST_P(StagingFaults, AKillBeforeOrAfterAnyCallLeavesTheOldOrTheNew) {
  int kills = 0;
  for (const Fault fault : {Fault::kKillBefore, Fault::kKillAfter}) {
    for (int at = 1;; ++at) {
      restore();
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        plan = {.fault = fault, .at = at};
        run();
        ::_exit(0);
      }
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      expect_old_or_new();
      run();  // takes over lock and staging folder
      ASSERT_EQ(read_tree(out_), new_) << "after a kill at call " << at;
      ASSERT_EQ(names_in(out_.parent_path()), Names{"out"}) << "after a kill at call " << at;
      if (!WIFSIGNALED(status)) break;
      ++kills;
    }
  }
  EXPECT_GT(kills, 40);
}

TEST_P(StagingFaults, AnyCallThatFailsIsAnOutputErrorAndLeavesTheOldOrTheNew) {
  int failures = 0;
  for (const int error : {ENOSPC, EIO, EROFS}) {
    for (int at = 1;; ++at) {
      restore();
      plan = {.fault = Fault::kError, .error = error, .at = at};
      try {
        run();
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kOutput) << e.what();
        ++failures;
      }
      const bool reached = plan.calls >= at;
      plan = {};
      expect_old_or_new();
      const Names left = names_in(out_.parent_path());
      EXPECT_TRUE(left.empty() || left == Names{"out"}) << "after call " << at;
      if (!reached) break;
    }
  }
  EXPECT_GT(failures, 60);
}

TEST_P(StagingFaults, InterruptedCallsAndShortWritesChangeNothing) {
  for (const Fault fault : {Fault::kInterrupt, Fault::kShortWrite}) {
    for (int at = 1;; ++at) {
      restore();
      plan = {.fault = fault, .at = at};
      bool renamed = true;
      try {
        run();
      } catch (const Error&) {
        renamed = false;  // rename is never interrupted
      }
      const bool reached = plan.calls >= at;
      plan = {};
      if (renamed) {
        EXPECT_EQ(read_tree(out_), new_) << "call " << at;
      }
      expect_old_or_new();
      if (!reached) break;
    }
  }
}

TEST_P(StagingFaults, AFullDiskSaysHowMuchIsNeededAndFree) {
  for (int at = 1;; ++at) {
    restore();
    plan = {.fault = Fault::kError, .error = ENOSPC, .at = at};
    std::string text;
    try {
      run();
    } catch (const Error& e) {
      text = e.what();
    }
    const bool reached = plan.calls >= at;
    plan = {};
    if (text.find("writing failed") != std::string::npos) {
      EXPECT_NE(text.find("more bytes needed"), std::string::npos) << text;
      EXPECT_NE(text.find("free)"), std::string::npos) << text;
      return;
    }
    ASSERT_TRUE(reached) << "no write failed";
  }
}

INSTANTIATE_TEST_SUITE_P(, StagingFaults, ::testing::Bool(), [](const auto& test) {
  return test.param ? "OverAnOldArtefact" : "WithoutAnOldArtefact";
});

}  // namespace
}  // namespace arrow_quant
