// A process that is killed at any moment leaves the output absent, or complete.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "arrow_quant/artefact.h"
#include "arrow_quant/error.h"
#include "arrow_quant/pipeline.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

namespace arrow_quant {
namespace {

using testing::names_in;
using testing::QuietProgress;
using testing::read_tree;
using testing::TempFolder;
using testing::write_tiny_pipeline;
namespace fs = std::filesystem;

using Names = std::set<std::string>;

class DeadlyProgress final : public Progress {
 public:
  explicit DeadlyProgress(int calls) : calls_(calls) {}
  void report(std::string_view /*message*/, double /*fraction*/) override { count(); }
  void poll() override { count(); }

 private:
  void count() {
    if (--calls_ == 0) ::kill(::getpid(), SIGKILL);
  }
  int calls_;
};

QuantizeOptions options(bool overwrite) {
  QuantizeOptions result;
  result.num_threads = 2;
  result.overwrite = overwrite;
  return result;
}

/// Quantizes in a child that is killed at the call number `calls`; false when it was never reached.
bool killed_at(int calls, const std::string& model, const std::string& output, bool overwrite) {
  const pid_t child = ::fork();
  if (child == 0) {
    DeadlyProgress progress(calls);
    try {
      quantize_model(model, output, options(overwrite), progress);
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
  return WIFSIGNALED(status);
}

class KilledProcess : public ::testing::Test {
 protected:
  KilledProcess() {
    write_tiny_pipeline(temp_.path() / "model");
    run(temp_ / "undisturbed");
    expected_ = read_tree(temp_ / "undisturbed");
  }

  void run(const std::string& output) {
    QuietProgress progress;
    quantize_model(temp_ / "model", output, options(true), progress);
  }

  const TempFolder temp_;
  const std::string out_ = temp_ / "out";
  std::map<std::string, std::string> expected_;
};

TEST_F(KilledProcess, LeavesNoOutputAndTheNextRunGivesTheSameBytes) {
  int crashes = 0;
  for (int calls = 1; killed_at(calls, temp_ / "model", out_, false); ++calls) {
    ++crashes;
    ASSERT_FALSE(fs::exists(out_)) << "killed at call " << calls;
    run(out_);
    ASSERT_EQ(read_tree(out_), expected_) << "after a kill at call " << calls;
    ASSERT_EQ(names_in(temp_.path()), (Names{"model", "out", "undisturbed"}));
    fs::remove_all(out_);
  }
  EXPECT_GT(crashes, 10);
  EXPECT_EQ(read_tree(out_), expected_);
}

TEST_F(KilledProcess, LeavesTheOldArtefactThatItWasToReplace) {
  QuantizeOptions old = options(true);
  old.plan.bit_width = 8;
  QuietProgress progress;
  quantize_model(temp_ / "model", out_, old, progress);
  const auto before = read_tree(out_);
  ASSERT_NE(before, expected_);
  for (int calls = 1; killed_at(calls, temp_ / "model", out_, true); ++calls) {
    ASSERT_EQ(read_tree(out_), before) << "killed at call " << calls;
    EXPECT_NO_THROW(Artefact::open(out_).verify([] {}));
  }
  EXPECT_EQ(read_tree(out_), expected_);
  EXPECT_EQ(names_in(temp_.path()), (Names{"model", "out", "undisturbed"}));
}

// Between two calls of Progress, too: the final writes, the rename, the clean-up.
TEST_F(KilledProcess, AtAnyTimeLeavesTheOutputAbsentOrComplete) {
  int complete = 0;
  for (int microseconds = 0; microseconds < 40'000; microseconds += 400) {
    const pid_t child = ::fork();
    if (child == 0) {
      QuietProgress progress;
      try {
        quantize_model(temp_ / "model", out_, options(false), progress);
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(microseconds));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (!fs::exists(out_)) continue;
    ++complete;
    ASSERT_EQ(read_tree(out_), expected_) << "killed after " << microseconds << " us";
    fs::remove_all(out_);
  }
  run(out_);
  EXPECT_EQ(read_tree(out_), expected_);
  RecordProperty("complete", complete);
}

}  // namespace
}  // namespace arrow_quant
