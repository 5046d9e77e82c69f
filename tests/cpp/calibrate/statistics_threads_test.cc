// CalibrationStatistics used by several threads at once. ThreadSanitizer runs these as well.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <vector>

#include "arrow_quant/calibration.h"
#include "calibrate/statistics_fixture.h"
#include "support/temp_folder.h"

namespace arrow_quant {
namespace {

using namespace testing;

constexpr size_t kChannels = 300;

CalibrationStatistics statistics(int threads) {
  CalibrationStatistics result({.component = "unet", .num_threads = threads});
  result.add_input({layer("to_q.weight", 8, kChannels)}, kChannels);
  return result;
}

/// A caller whose `poll` waits for a thread that reads the statistics, as one does that waits for
/// Python's lock.
class WaitsForAReader final : public Progress {
 public:
  explicit WaitsForAReader(const CalibrationStatistics& statistics) : statistics_(statistics) {}
  ~WaitsForAReader() override {
    for (std::thread& reader : readers_) reader.join();
  }

  void report(std::string_view /*message*/, double /*fraction*/) override {}
  void poll() override {
    std::promise<void> read;
    std::future<void> done = read.get_future();
    readers_.emplace_back([this, read = std::move(read)]() mutable {
      (void)statistics_.tokens(0, false);
      read.set_value();
    });
    const bool in_time = done.wait_for(std::chrono::seconds(5)) == std::future_status::ready;
    (in_time ? answered : stuck) += 1;
  }

  int answered = 0, stuck = 0;

 private:
  const CalibrationStatistics& statistics_;
  std::vector<std::thread> readers_;
};

TEST(CalibrationThreads, AddNeverPollsWhileOthersWaitForIt) {
  CalibrationStatistics stats = statistics(2);
  WaitsForAReader progress(stats);
  stats.add(0, {random_activations(40, kChannels), 500}, progress);
  EXPECT_GT(progress.answered, 0);
  EXPECT_EQ(progress.stuck, 0);
}

TEST(CalibrationThreads, WhatWasReadStaysAsItWasWhileOthersAdd) {
  CalibrationStatistics stats = statistics(1);
  NoProgress progress;
  const std::vector<float> x = random_activations(10, kChannels);
  stats.add_note("first");
  stats.add(0, {x, 1}, progress);
  const InputStatistics& before = stats.input(0);
  const std::vector<std::string>& notes = stats.notes();
  stats.add(0, {x, 900}, progress);
  stats.add_note("second");
  EXPECT_EQ(stats.input(0).bins.size(), 2U);
  EXPECT_EQ(before.bins.size(), 1U);
  EXPECT_EQ(before.tokens, 10U);
  EXPECT_EQ(notes.size(), 1U);
}

TEST(CalibrationThreads, ReadersSeeWholeBlocksWhileOthersAddMergeAndSave) {
  const TempFolder folder;
  CalibrationStatistics stats = statistics(2);
  const std::vector<float> x = random_activations(16, kChannels);
  CalibrationStatistics other({.component = "unet", .data = kUserData, .num_threads = 1});
  other.add_input({layer("to_q.weight", 8, kChannels)}, kChannels);
  NoProgress nothing;
  other.add(0, {x, 3}, nothing);
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!done) {
        const InputStatistics facts = stats.input(0);
        uint64_t tokens = 0;
        for (const TimeBin& bin : facts.bins) tokens += bin.tokens;
        EXPECT_EQ(tokens, facts.tokens);
        EXPECT_EQ(facts.tokens % 16, 0U);
        EXPECT_EQ(stats.data(), kUserData);
        EXPECT_LE(stats.notes().size(), 1U);
        EXPECT_LE(stats.bins(0).size(), 64U);
        EXPECT_EQ(stats.gram(0, false).channels(), kChannels);
      }
    });
  }
  std::thread adder([&] {
    NoProgress progress;
    for (int i = 0; i < 30; ++i) stats.add(0, {x, static_cast<double>(i)}, progress);
  });
  for (int i = 0; i < 10; ++i) {
    stats.merge(other);
    stats.add_note("a note");
    stats.save(folder / "s", true);
  }
  adder.join();
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(stats.tokens(0, false), 40U * 16U);
}

}  // namespace
}  // namespace arrow_quant
