#include "core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace arrow_quant {
namespace {

TEST(ThreadPool, RunsEveryBlockExactlyOnce) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> hits(1000);
  for (int round = 0; round < 20; ++round) {
    pool.parallel_for(hits.size(), [&](size_t i, int) { hits[i].fetch_add(1); });
  }
  for (const auto& hit : hits) EXPECT_EQ(hit.load(), 20);
}

TEST(ThreadPool, GivesEachWorkerItsOwnIndex) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> inside(3);
  std::atomic<bool> shared{false};
  pool.parallel_for(300, [&](size_t, int worker) {
    if (inside.at(static_cast<size_t>(worker)).fetch_add(1) != 0) shared = true;
    std::this_thread::yield();
    inside.at(static_cast<size_t>(worker)).fetch_sub(1);
  });
  EXPECT_FALSE(shared.load());
}

TEST(ThreadPool, RethrowsTheFirstExceptionAndStaysUsable) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.parallel_for(100,
                                 [](size_t i, int) {
                                   if (i == 7) throw std::runtime_error("block 7");
                                 }),
               std::runtime_error);
  std::atomic<int> count{0};
  pool.parallel_for(10, [&](size_t, int) { count.fetch_add(1); });
  EXPECT_EQ(count.load(), 10);
}

TEST(ThreadPool, StopsWhenPollThrows) {
  ThreadPool pool(2);
  std::atomic<int> started{0};
  EXPECT_THROW(pool.parallel_for(
                   1000000,
                   [&](size_t, int) {
                     started.fetch_add(1);
                     std::this_thread::sleep_for(std::chrono::microseconds(10));
                   },
                   [] { throw std::logic_error("stop"); }),
               std::logic_error);
  EXPECT_LT(started.load(), 1000000);
}

TEST(ThreadPool, PollsWhileOnlyAWorkerIsBusy) {
  ThreadPool pool(2);
  std::atomic<bool> worker_done{false};
  std::atomic<int> polls{0};
  pool.parallel_for(
      2,
      [&](size_t, int worker) {
        if (worker == 0) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        worker_done = true;
      },
      [&] { polls.fetch_add(1); });
  if (worker_done.load()) {
    EXPECT_GE(polls.load(), 2);
  }
}

TEST(ThreadPool, PollRunsOnTheCallingThread) {
  ThreadPool pool(2);
  const auto caller = std::this_thread::get_id();
  bool elsewhere = false;
  pool.parallel_for(
      64, [](size_t, int) {}, [&] { elsewhere |= std::this_thread::get_id() != caller; });
  EXPECT_FALSE(elsewhere);
}

TEST(ThreadPool, HandlesNoBlocks) {
  ThreadPool pool(2);
  pool.parallel_for(0, [](size_t, int) { FAIL(); });
}

TEST(ThreadPool, ZeroThreadsMeansTheCoresOfThisProcess) {
  EXPECT_EQ(ThreadPool(0).size(), available_cores());
}

TEST(ThreadPool, OnlyAsManyThreadsAsAskedTakePart) {
  ThreadPool pool(4);
  for (const int threads : {1, 2, 3}) {
    std::atomic<int> blocks = 0;
    std::atomic<bool> beyond = false;
    pool.parallel_for(
        100,
        [&](size_t, int worker) {
          ++blocks;
          if (worker >= threads) beyond = true;
        },
        {}, threads);
    EXPECT_EQ(blocks, 100);
    EXPECT_FALSE(beyond) << threads;
  }
}

}  // namespace
}  // namespace arrow_quant
