#include "core/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>

namespace arrow_quant {
namespace {

size_t sum_of_blocks(int threads) {
  std::atomic<size_t> sum = 0;
  parallel_blocks(threads, 100, [&](size_t block) { sum += block; });
  return sum;
}

TEST(ParallelBlocks, RunEveryBlockOnce) {
  for (const int threads : {1, 2, 4}) EXPECT_EQ(sum_of_blocks(threads), 4950U);
}

TEST(ParallelBlocks, ThrowTheFirstExceptionWhenAllHaveComeToRest) {
  EXPECT_THROW(parallel_blocks(2, 50, [](size_t) { throw std::runtime_error("block"); }),
               std::runtime_error);
  EXPECT_EQ(sum_of_blocks(2), 4950U);
}

#if !defined(__SANITIZE_THREAD__)  // which does not let a process with threads fork
TEST(ParallelBlocks, RunInAForkedProcessWhoseParentRanSome) {
  ASSERT_EQ(sum_of_blocks(2), 4950U);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);  // instead of waiting for ever
    ::_exit(sum_of_blocks(2) == 4950 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}
#endif

}  // namespace
}  // namespace arrow_quant
