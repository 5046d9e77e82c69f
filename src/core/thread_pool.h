// Threads for data-parallel loops over independent blocks.
//
// The calling thread works too, and between two of its blocks it runs `poll`, so that a signal or a
// deadline is seen within the time of one block. Results must not depend on which thread runs which
// block. One loop at a time per pool; the pool itself may be used from one thread at a time. After
// a fork the child must make its own pool.
#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <memory>

namespace arrow_quant {

class ThreadPool {
 public:
  /// `threads` includes the caller; 0 means all cores this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const noexcept;

  /// Run fn(block, worker) for every block in [0, blocks); worker is in [0, size()) and tells
  /// scratch buffers apart. The first exception, from a block or from `poll`, stops the loop and is
  /// rethrown here after all workers have come to rest. At most `threads` of them take part, at
  /// least the caller.
  void parallel_for(size_t blocks, const std::function<void(size_t block, int worker)>& fn,
                    const std::function<void()>& poll = {},
                    int threads = std::numeric_limits<int>::max());

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Cores that this process may use (its affinity mask), at least 1.
int available_cores() noexcept;

}  // namespace arrow_quant
