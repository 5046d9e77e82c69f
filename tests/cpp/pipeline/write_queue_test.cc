#include "pipeline/write_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

namespace arrow_quant {
namespace {

using std::chrono::milliseconds;

TEST(WriteQueue, WritesEverythingInOrderOnAnotherThread) {
  std::vector<int> written;
  std::thread::id writer;
  WriteQueue queue(100, [] {});
  for (int i = 0; i < 50; ++i) {
    queue.reserve(10);
    queue.push(10, [&written, &writer, i] {
      written.push_back(i);
      writer = std::this_thread::get_id();
    });
  }
  queue.drain();
  ASSERT_EQ(written.size(), 50U);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(written[static_cast<size_t>(i)], i);
  EXPECT_NE(writer, std::this_thread::get_id());
}

TEST(WriteQueue, KeepsWithinItsBytesAndLetsOneLargerPieceThroughAlone) {
  std::atomic<int> in_flight = 0, most = 0;
  WriteQueue queue(30, [] {});
  const auto write = [&](int bytes) {
    queue.reserve(static_cast<uint64_t>(bytes));
    in_flight += bytes;
    most = std::max(most.load(), in_flight.load());
    queue.push(static_cast<uint64_t>(bytes), [&in_flight, bytes] {
      std::this_thread::sleep_for(milliseconds(1));
      in_flight -= bytes;
    });
  };
  for (int i = 0; i < 30; ++i) write(10);
  EXPECT_LE(most, 30);
  queue.drain();
  write(500);
  EXPECT_EQ(most, 500) << "beside nothing else";
  queue.drain();
  EXPECT_EQ(in_flight, 0);
}

TEST(WriteQueue, FreesWhatTheWorkOwnedBeforeItsBytes) {
  auto owned = std::make_shared<int>(1);
  const std::weak_ptr<int> watched = owned;
  WriteQueue queue(10, [] {});
  queue.reserve(10);
  queue.push(10, [kept = std::move(owned)] {});
  queue.reserve(10);
  EXPECT_TRUE(watched.expired());
}

TEST(WriteQueue, PollsWhileItWaitsAndLetsItsExceptionThrough) {
  std::promise<void> go;
  std::atomic<int> polls = 0;
  bool stop = false;
  WriteQueue queue(10, [&] {
    ++polls;
    if (stop) throw std::runtime_error("stopped");
    if (polls == 3) go.set_value();  // only polls let the writer go on
  });
  queue.reserve(10);
  queue.push(10, [&] { go.get_future().wait(); });
  queue.reserve(10);
  EXPECT_GE(polls, 3);
  stop = true;
  std::promise<void> never;
  queue.push(10, [&] { never.get_future().wait(); });
  EXPECT_THROW(queue.drain(), std::runtime_error);
  never.set_value();
}

TEST(WriteQueue, AnErrorOfTheWriterStopsTheProducerAndDropsTheRest) {
  std::atomic<int> written = 0;
  WriteQueue queue(1000, [] {});
  queue.push(0, [] { throw std::runtime_error("disk full"); });
  EXPECT_THROW(queue.drain(), std::runtime_error);
  EXPECT_THROW(queue.push(0, [&] { ++written; }), std::runtime_error);
  EXPECT_THROW(queue.reserve(2000), std::runtime_error);
  EXPECT_EQ(written, 0);
}

TEST(WriteQueue, GivenUpItDropsWhatHasNotBeenStarted) {
  std::atomic<int> written = 0;
  std::promise<void> started, go;
  {
    WriteQueue queue(1000, [] {});
    queue.push(1, [&] {
      started.set_value();
      go.get_future().wait();
      ++written;
    });
    for (int i = 0; i < 5; ++i) queue.push(1, [&] { written += 100; });
    started.get_future().wait();
    std::thread later([&] {
      std::this_thread::sleep_for(milliseconds(50));
      go.set_value();
    });
    later.detach();
  }
  EXPECT_EQ(written, 1);
}

}  // namespace
}  // namespace arrow_quant
