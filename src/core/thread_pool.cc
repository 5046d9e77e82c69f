#include "core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace arrow_quant {

int available_cores() noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

struct ThreadPool::State {
  using Fn = std::function<void(size_t, int)>;

  std::mutex mutex;
  std::condition_variable start;
  std::condition_variable finished;
  uint64_t generation = 0;  // a new value tells the workers that a loop is waiting
  int active = 0;           // workers inside the current loop
  bool stopping = false;

  const Fn* fn = nullptr;
  size_t blocks = 0;
  int threads = 0;  // that take part
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::vector<std::thread> workers;

  void fail(std::exception_ptr e) {
    next.store(blocks);
    const std::lock_guard lock(mutex);
    if (!error) error = std::move(e);
  }

  // Take blocks until none is left. `after_each` runs on the caller's thread only.
  void work(int worker, const std::function<void()>* after_each) noexcept {
    try {
      for (size_t i = next.fetch_add(1); i < blocks; i = next.fetch_add(1)) {
        (*fn)(i, worker);
        if (after_each != nullptr && *after_each) (*after_each)();
      }
    } catch (...) {
      fail(std::current_exception());
    }
  }

  void worker_main(int worker) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      start.wait(lock, [&] { return stopping || generation != seen; });
      if (stopping) return;
      seen = generation;
      const bool takes_part = worker < threads;
      lock.unlock();
      if (takes_part) work(worker, nullptr);
      lock.lock();
      if (--active == 0) finished.notify_all();
    }
  }

  void stop() noexcept {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    start.notify_all();
    for (std::thread& thread : workers) thread.join();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  const int count = threads > 0 ? threads : available_cores();
  try {
    for (int i = 1; i < count; ++i) {
      state_->workers.emplace_back([state = state_.get(), i] { state->worker_main(i); });
    }
  } catch (...) {
    state_->stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { state_->stop(); }

int ThreadPool::size() const noexcept { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::parallel_for(size_t blocks, const std::function<void(size_t, int)>& fn,
                              const std::function<void()>& poll, int threads) {
  State& s = *state_;
  const bool parallel = !s.workers.empty() && blocks > 1 && threads > 1;
  {
    const std::lock_guard lock(s.mutex);
    s.fn = &fn;
    s.blocks = blocks;
    s.threads = threads;
    s.next.store(0);
    s.error = nullptr;
    if (parallel) {
      s.active = static_cast<int>(s.workers.size());
      ++s.generation;
    }
  }
  if (parallel) s.start.notify_all();
  s.work(0, &poll);

  std::unique_lock lock(s.mutex);
  while (s.active != 0) {
    s.finished.wait_for(lock, std::chrono::milliseconds(50));
    if (s.active == 0 || !poll) continue;
    lock.unlock();
    try {
      poll();
    } catch (...) {
      s.fail(std::current_exception());
    }
    lock.lock();
  }
  s.fn = nullptr;
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace arrow_quant
