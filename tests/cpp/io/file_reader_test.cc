#include "io/file_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempFolder;
using testing::write_file;

std::string read(const FileReader& file, uint64_t offset, size_t size) {
  std::string text(size, '?');
  file.read_exact(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

TEST(FileReader, ReadsAnyRangeOfAFile) {
  const TempFolder folder;
  write_file(folder / "f", "0123456789");
  const FileReader file(folder / "f");
  EXPECT_EQ(file.size(), 10U);
  EXPECT_EQ(read(file, 0, 10), "0123456789");
  EXPECT_EQ(read(file, 7, 3), "789");
  EXPECT_EQ(read(file, 10, 0), "");
}

TEST(FileReader, ReadingPastTheEndIsAnError) {
  const TempFolder folder;
  write_file(folder / "f", "0123456789");
  const FileReader file(folder / "f");
  expect_error(ErrorCode::kMetadata, {"expected 11 bytes", "ends at 10", folder / "f"},
               [&] { read(file, 8, 3); });
  expect_error(ErrorCode::kMetadata, {"ends at 1000"}, [&] { read(file, 1000, 1); });
}

TEST(FileReader, AMovedReaderStillReads) {
  const TempFolder folder;
  write_file(folder / "f", "0123");
  FileReader first(folder / "f");
  const FileReader second(std::move(first));
  EXPECT_EQ(read(second, 1, 2), "12");
  second.check_unchanged();
}

TEST(FileReader, ThreadsReadTheSameFileAtOnce) {
  const TempFolder folder;
  write_file(folder / "f", std::string(100'000, 'x') + "end");
  const FileReader file(folder / "f");
  std::array<std::string, 4> tails;
  std::vector<std::jthread> threads;
  for (std::string& tail : tails) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) tail = read(file, 99'999, 4);
    });
  }
  threads.clear();
  for (const std::string& tail : tails) EXPECT_EQ(tail, "xend");
}

TEST(FileReader, AMissingFileIsNotFound) {
  const TempFolder folder;
  expect_error(ErrorCode::kModelNotFound, {folder / "none", "No such file"},
               [&] { FileReader(folder / "none"); });
  expect_error(ErrorCode::kModelNotFound, {}, [] { FileReader(""); });
}

TEST(FileReader, A35AFifoIsRefusedWithoutWaitingForAWriter) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  const auto start = std::chrono::steady_clock::now();
  expect_error(ErrorCode::kMetadata, {"expected a regular file, found a FIFO"},
               [&] { FileReader(folder / "fifo"); });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(FileReader, A35DevicesAndFoldersAreRefused) {
  const TempFolder folder;
  expect_error(ErrorCode::kMetadata, {"found a device"}, [] { FileReader("/dev/zero"); });
  expect_error(ErrorCode::kMetadata, {"found a directory"}, [&] { FileReader(folder / "."); });
}

TEST(FileReader, A35ASocketIsRefused) {
  const TempFolder folder;
  const std::string path = folder / "socket";
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_GE(socket, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  expect_error(ErrorCode::kMetadata, {"expected a regular file"}, [&] { FileReader{path}; });
  ::close(socket);
}

TEST(FileReader, A36AFileWithoutPermissionSaysSo) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const TempFolder folder;
  write_file(folder / "f", "x");
  ASSERT_EQ(::chmod((folder / "f").c_str(), 0), 0);
  expect_error(ErrorCode::kModelNotFound, {"permission denied"}, [&] { FileReader(folder / "f"); });
}

TEST(FileReader, B45ALoopOfLinksIsNotFound) {
  const TempFolder folder;
  fs::create_symlink(folder / "b", folder / "a");
  fs::create_symlink(folder / "a", folder / "b");
  expect_error(ErrorCode::kModelNotFound, {"symbolic links form a loop"},
               [&] { FileReader(folder / "a"); });
}

TEST(FileReader, B45ALinkToAFileIsFollowed) {
  const TempFolder folder;
  write_file(folder / "blob", "0123");
  fs::create_symlink("blob", folder / "link");
  const FileReader file(folder / "link");
  EXPECT_EQ(read(file, 0, 4), "0123");
  file.check_unchanged();
}

TEST(FileReader, B51NamesOfAnyBytesAndLengthsAreReadOrRefused) {
  const TempFolder folder;
  const std::string odd = folder / "\xff\xfe";
  write_file(odd, "x");
  EXPECT_EQ(FileReader(odd).size(), 1U);
  const std::string longest = folder / std::string(255, 'n');
  write_file(longest, "x");
  EXPECT_EQ(FileReader(longest).size(), 1U);
  expect_error(ErrorCode::kModelNotFound, {"too long"},
               [&] { FileReader(folder / std::string(256, 'n')); });
  expect_error(ErrorCode::kModelNotFound, {"too long"},
               [&] { FileReader("/" + std::string(5000, 'n')); });
}

TEST(FileReader, A33AFileThatShrinksIsAnError) {
  const TempFolder folder;
  write_file(folder / "f", std::string(10'000, 'x'));
  const FileReader file(folder / "f");
  fs::resize_file(folder / "f", 5'000);
  expect_error(ErrorCode::kMetadata, {"ends at 5000", "changed while"},
               [&] { read(file, 0, 10'000); });
  expect_error(ErrorCode::kMetadata, {"changed while it was read"},
               [&] { file.check_unchanged(); });
}

TEST(FileReader, A34AFileThatIsReplacedByRenameIsAnError) {
  const TempFolder folder;
  write_file(folder / "f", "old!");
  const FileReader file(folder / "f");
  write_file(folder / "g", "new!");
  fs::rename(folder / "g", folder / "f");
  EXPECT_EQ(read(file, 0, 4), "old!");
  expect_error(ErrorCode::kMetadata, {"changed while it was read"},
               [&] { file.check_unchanged(); });
}

TEST(FileReader, A34AFileThatIsTouchedGrownOrDeletedIsAnError) {
  const TempFolder folder;
  const auto changed_by = [&](auto change) {
    write_file(folder / "f", "text");
    const FileReader file(folder / "f");
    file.check_unchanged();
    change(folder / "f");
    expect_error(ErrorCode::kMetadata, {"changed while it was read"},
                 [&] { file.check_unchanged(); });
  };
  changed_by([](const std::string& path) {
    fs::last_write_time(path, fs::last_write_time(path) - std::chrono::seconds(3));
  });
  changed_by([](const std::string& path) { fs::resize_file(path, 100); });
  changed_by([](const std::string& path) { fs::remove(path); });
}

TEST(ReadTextFile, ReadsAllAndRefusesMoreThanTheLimit) {
  const TempFolder folder;
  write_file(folder / "f", "0123");
  EXPECT_EQ(read_text_file(folder / "f", 4), "0123");
  expect_error(ErrorCode::kMetadata, {"at most 3 bytes", "found 4"},
               [&] { read_text_file(folder / "f", 3); });
  write_file(folder / "empty", "");
  EXPECT_EQ(read_text_file(folder / "empty", 4), "");
}

}  // namespace
}  // namespace arrow_quant
