// Loops over blocks for the run time, on the OpenMP threads that the caller's own library uses.
//
// A layer of a model runs for microseconds, between layers of torch. Threads of our own would
// compete with torch's, which keep spinning for a while after each of its loops; OpenMP gives both
// the same ones. Built without OpenMP, loops run on the calling thread, as in a process that was
// forked after the first loop: threads of OpenMP stay behind in its parent, and it would wait for
// them for ever.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#if defined(__SANITIZE_THREAD__)
#include <thread>
#include <vector>
#endif

namespace arrow_quant {

/// Whether loops may have threads in this process; notes that there was one.
bool threads_are_here() noexcept;

/// Run fn(block) for every block in [0, blocks), on up to `threads` threads. The first exception is
/// rethrown when all have come to rest.
template <typename Fn>
void parallel_blocks(int threads, size_t blocks, const Fn& fn) {
  if (threads <= 1 || blocks <= 1 || !threads_are_here()) {
    for (size_t block = 0; block < blocks; ++block) fn(block);
    return;
  }
  std::exception_ptr failure;
  std::atomic<bool> failed = false;
  const auto run = [&](size_t block) {
    try {
      if (!failed) fn(block);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
#if defined(__SANITIZE_THREAD__)
  // ThreadSanitizer does not see how threads of libgomp wait for each other; these it does.
  std::atomic<size_t> next = 0;
  std::vector<std::thread> workers;
  for (size_t i = 0; i < std::min(static_cast<size_t>(threads), blocks); ++i) {
    workers.emplace_back([&] {
      for (size_t block = next++; block < blocks; block = next++) run(block);
    });
  }
  for (std::thread& worker : workers) worker.join();
#else
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (size_t block = 0; block < blocks; ++block) run(block);
#endif
  if (failure) std::rethrow_exception(failure);
}

}  // namespace arrow_quant
