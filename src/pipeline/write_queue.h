// Hands finished work to one writer thread, in order, within a memory bound.
//
// The producer asks for room before it allocates; the bytes come free when the work has been
// written. An exception of the writer reaches the producer at its next call. All methods are for
// the producer's thread; while they wait they run `poll` at least every 50 ms.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace arrow_quant {

class WriteQueue {
 public:
  /// `max_bytes` bounds what is in flight; one piece larger than that is let through alone.
  WriteQueue(uint64_t max_bytes, std::function<void()> poll);
  /// Drops what has not been started and waits for what has.
  ~WriteQueue();
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;

  /// Wait until `bytes` more may be in flight, and count them.
  void reserve(uint64_t bytes);

  /// Run `work` on the writer thread after everything pushed before; free `bytes` when it is done.
  void push(uint64_t bytes, std::function<void()> work);

  /// Wait until everything is written.
  void drain();

 private:
  struct Item {
    uint64_t bytes = 0;
    std::function<void()> work;
  };

  void writer_main() noexcept;
  template <typename Ready>
  void wait(std::unique_lock<std::mutex>& lock, Ready ready);

  const uint64_t max_bytes_;
  const std::function<void()> poll_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  uint64_t in_flight_ = 0;
  bool busy_ = false;
  bool stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace arrow_quant
