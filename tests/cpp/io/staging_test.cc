#include "io/staging.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <span>
#include <string>

#include "arrow_quant/error.h"
#include "arrow_quant/manifest.h"
#include "support/temp_folder.h"
#include "write/manifest.h"

namespace arrow_quant {
namespace {

using testing::names_in;
using testing::read_file;
using testing::TempFolder;
using testing::write_file;
namespace fs = std::filesystem;

using Names = std::set<std::string>;

std::string a_manifest(const std::string& version = "1") {
  return write_manifest({.tool_version = version, .files = {{.path = "data"}}});
}

void put(Staging& staging, const std::string& name, const std::string& text) {
  const auto file = staging.create(name);
  file->write(std::as_bytes(std::span(text)));
  file->close();
}

void write_artefact(const std::string& output, const std::string& text, bool overwrite = false) {
  Staging staging(output, overwrite, 0);
  put(staging, "data", text);
  staging.commit(a_manifest(text));
}

/// Runs `work` and expects kOutput; returns its text.
template <typename Work>
std::string output_error(Work work) {
  try {
    work();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutput) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "expected an error";
  return {};
}

TEST(Staging, NothingShowsAtTheOutputUntilCommitAndNothingElseAfterIt) {
  const TempFolder temp;
  {
    Staging staging(temp / "out", false, 0);
    put(staging, "data", "bytes");
    put(staging, "deep/er/data", "more");
    EXPECT_FALSE(fs::exists(temp / "out"));
    staging.commit(a_manifest());
  }
  EXPECT_EQ(names_in(temp.path()), Names{"out"});
  EXPECT_EQ(names_in(temp / "out"), (Names{"data", "deep", "manifest.json"}));
  EXPECT_EQ(read_file(temp / "out/deep/er/data"), "more");
}

TEST(Staging, TheRecordOfAFileHasItsSizeAndHash) {
  const TempFolder temp;
  write_file(temp / "source", std::string(100'000, 'x'));
  Staging staging(temp / "out", false, 0);
  const FileRecord copied = staging.copy(temp / "source", "a/copy", [] {});
  const auto file = staging.create("b");
  const std::string text(100'000, 'x');
  file->write(std::as_bytes(std::span(text)));
  const FileRecord written = file->close();
  EXPECT_EQ(copied.path, "a/copy");
  EXPECT_EQ(copied.size, 100'000U);
  EXPECT_EQ(copied.hash, written.hash);
  EXPECT_EQ(copied.hash.size(), 32U);
}

TEST(Staging, MissingParentsAreMadeAndGoAgainWithoutACommit) {
  const TempFolder temp;
  {
    const Staging staging(temp / "a/b/out", false, 0);
  }
  EXPECT_EQ(names_in(temp.path()), Names{});
  write_artefact(temp / "a/b/out/", "text");  // with a slash at the end
  EXPECT_EQ(names_in(temp / "a/b"), Names{"out"});
}

TEST(Staging, AnEmptyFolderIsTakenAsTheOutput) {
  const TempFolder temp;
  fs::create_directory(temp / "out");
  write_artefact(temp / "out", "text");
  EXPECT_EQ(read_file(temp / "out/data"), "text");
}

TEST(Staging, ForeignThingsAtTheOutputAreNeverReplaced) {
  const TempFolder temp;
  write_file(temp / "folder/precious", "1");
  write_file(temp / "file", "2");
  write_file(temp / "other/manifest.json", "{\"format\": \"something else\"}");
  write_file(temp / "quoting/manifest.json",
             R"({"about": {"format": "arrow_quant_v2"}, "format": "x"})");
  write_file(temp / "broken/manifest.json", R"({"format": "arrow_quant_v2")");
  fs::create_symlink(temp / "nowhere", temp / "dangling");
  fs::create_directory_symlink(temp / "folder", temp / "link");
  const Names before = names_in(temp.path());
  for (const char* name : {"folder", "file", "other", "quoting", "broken", "dangling", "link"}) {
    for (const bool overwrite : {false, true}) {
      output_error([&] { const Staging staging(temp / name, overwrite, 0); });
    }
  }
  EXPECT_EQ(names_in(temp.path()), before);
  EXPECT_EQ(read_file(temp / "folder/precious"), "1");
}

TEST(Staging, PathsWithoutANameAreRefused) {
  for (const std::string& path : {std::string(""), std::string("."), std::string(".."),
                                  std::string("/"), std::string("a/.."), std::string("a\0b", 3)}) {
    output_error([&] { const Staging staging(path, true, 0); });
  }
}

TEST(Staging, OurArtefactIsReplacedOnlyOnRequestAndStaysWholeUntilThen) {
  const TempFolder temp;
  write_artefact(temp / "out", "old");
  const std::string text = output_error([&] { const Staging staging(temp / "out", false, 0); });
  EXPECT_NE(text.find("overwrite"), std::string::npos) << text;
  {
    Staging staging(temp / "out", true, 0);
    put(staging, "data", "new");
    EXPECT_EQ(read_file(temp / "out/data"), "old");
    EXPECT_EQ(read_file(temp / "out/manifest.json"), a_manifest("old"));
    staging.commit(a_manifest("new"));
    EXPECT_EQ(read_file(temp / "out/data"), "new");
  }
  EXPECT_EQ(names_in(temp.path()), Names{"out"});
}

TEST(Staging, AFileThatIsNotOfTheArtefactIsNeverLostWithIt) {
  const TempFolder temp;
  write_artefact(temp / "out", "old");
  write_file(temp / "out/deep/notes.txt", "precious");
  const std::string text = output_error([&] { const Staging staging(temp / "out", true, 0); });
  EXPECT_NE(text.find("deep/notes.txt"), std::string::npos) << text;
  EXPECT_EQ(read_file(temp / "out/deep/notes.txt"), "precious");
  fs::remove_all(temp / "out/deep");
  write_artefact(temp / "out", "new", true);
  EXPECT_EQ(read_file(temp / "out/data"), "new");
}

TEST(Staging, AnArtefactThatIsDamagedIsReplacedOnRequest) {
  const TempFolder temp;
  write_artefact(temp / "out", "old");
  write_file(temp / "out/data", "damaged");
  write_artefact(temp / "out", "new", true);
  fs::remove(temp / "out/data");
  write_artefact(temp / "out", "newer", true);
  EXPECT_EQ(read_file(temp / "out/data"), "newer");
}

TEST(Staging, WhatAppearsAtTheOutputDuringTheWorkIsNotReplaced) {
  const TempFolder temp;
  for (const bool overwrite : {false, true}) {
    Staging staging(temp / "out", overwrite, 0);
    put(staging, "data", "ours");
    write_file(temp / "out/precious", "theirs");
    output_error([&] { staging.commit(a_manifest()); });
    EXPECT_EQ(names_in(temp / "out"), Names{"precious"});
    fs::remove_all(temp / "out");
  }
}

TEST(Staging, ASecondOneForTheSameOutputFailsAtOnce) {
  const TempFolder temp;
  {
    Staging first(temp / "out", false, 0);
    put(first, "data", "first");
    const std::string text = output_error([&] { const Staging s(temp / "out", true, 0); });
    const std::string owner =
        "another process is writing this output: process " + std::to_string(::getpid());
    EXPECT_NE(text.find(owner), std::string::npos) << text;
    const Staging elsewhere(temp / "out2", false, 0);  // another output is free
    first.commit(a_manifest());
  }
  EXPECT_EQ(read_file(temp / "out/data"), "first");
  EXPECT_EQ(names_in(temp.path()), Names{"out"});
}

TEST(Staging, ASecondProcessFailsAtOnceAndTheLockEndsWithTheFirst) {
  const TempFolder temp;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Staging staging(temp / "out", false, 0);
    put(staging, "data", "half");
    char byte = 1;
    if (::write(ready[1], &byte, 1) != 1) ::_exit(1);
    while (true) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const std::string text = output_error([&] { const Staging staging(temp / "out", false, 0); });
  EXPECT_NE(text.find("process " + std::to_string(child)), std::string::npos) << text;
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  write_artefact(temp / "out", "text");
  EXPECT_EQ(names_in(temp.path()), Names{"out"});
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(Staging, TheLongestNamesOfFilesCanBeWritten) {
  const TempFolder temp;
  const std::string name(255, 'n');
  Staging staging(temp / "out", false, 0);
  put(staging, name, "x");
  staging.commit(a_manifest());
  EXPECT_EQ(read_file(temp / ("out/" + name)), "x");
  output_error([&] { const Staging second(temp / name, false, 0); });
}

TEST(Staging, AFileThatIsNotClosedLeavesNothing) {
  const TempFolder temp;
  Staging staging(temp / "out", false, 0);
  const std::string text = "half";
  staging.create("data", 1000)->write(std::as_bytes(std::span(text)));
  EXPECT_EQ(names_in(staging.path()), Names{});
}

TEST(Staging, ALockAndAStagingFolderOfADeadProcessAreTakenOver) {
  const TempFolder temp;
  write_file(temp / ".out.lock", "1\n");
  write_file(temp / ".out.staging-1/half", "written");
  write_file(temp / ".outer.staging-1/half", "of another output");
  write_artefact(temp / "out", "text");
  EXPECT_EQ(names_in(temp.path()), (Names{"out", ".outer.staging-1"}));
}

TEST(Staging, AnExceptionLeavesNeitherLockNorStagingFolder) {
  const TempFolder temp;
  write_file(temp / "source", std::string(100, 'x'));
  const auto work = [&] {
    Staging staging(temp / "out", false, 0);
    put(staging, "data", "x");
    staging.copy(temp / "source", "copy", [] { throw std::runtime_error("stop"); });
  };
  EXPECT_THROW(work(), std::runtime_error);
  EXPECT_EQ(names_in(temp.path()), Names{"source"});
}

TEST(Staging, AFileIsWrittenOnlyOnce) {
  const TempFolder temp;
  Staging staging(temp / "out", false, 0);
  put(staging, "data", "x");
  output_error([&] { staging.create("data"); });
}

TEST(Staging, TooLittleSpaceIsSeenBeforeAnythingIsWritten) {
  const TempFolder temp;
  const std::string text =
      output_error([&] { const Staging staging(temp / "a/out", false, uint64_t{1} << 60); });
  EXPECT_NE(text.find("not enough space"), std::string::npos) << text;
  EXPECT_EQ(names_in(temp.path()), Names{});
}

TEST(Staging, AParentThatCannotBeWrittenIsAnError) {
  const TempFolder temp;
  write_file(temp / "file", "x");
  output_error([&] { const Staging staging(temp / "file/out", false, 0); });
  output_error([&] { const Staging staging(temp / "file/deep/out", false, 0); });
  EXPECT_EQ(read_file(temp / "file"), "x");
  if (::geteuid() == 0) return;  // root may write everywhere
  fs::create_directory(temp / "locked");
  fs::permissions(temp / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  output_error([&] { const Staging staging(temp / "locked/out", false, 0); });
  fs::permissions(temp / "locked", fs::perms::owner_all);
}

// The limit on the size of a file stands for a full disk: write() fails in the middle of the data.
TEST(Staging, AWriteThatFailsIsAnErrorAndLeavesNothing) {
  const TempFolder temp;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 1000, .rlim_max = 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int code = 1;
    try {
      Staging staging(temp / "out", false, 0);
      put(staging, "small", "fits");
      put(staging, "data", std::string(100'000, 'x'));
    } catch (const Error& e) {
      code = e.code() == ErrorCode::kOutput ? 0 : 2;
    }
    ::_exit(code);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(names_in(temp.path()), Names{});
}

}  // namespace
}  // namespace arrow_quant
