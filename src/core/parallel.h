// Loops over blocks for the run time, on the OpenMP threads that the caller's own library uses.
//
// A layer of a model runs for microseconds, between layers of torch. Threads of our own would
// compete with torch's, which keep spinning for a while after each of its loops; OpenMP gives both
// the same ones. Built without OpenMP, loops run on the calling thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>

namespace arrow_quant {

/// Run fn(block) for every block in [0, blocks), on up to `threads` threads. The first exception is
/// rethrown when all have come to rest.
template <typename Fn>
void parallel_blocks(int threads, size_t blocks, const Fn& fn) {
  if (threads <= 1 || blocks <= 1) {
    for (size_t block = 0; block < blocks; ++block) fn(block);
    return;
  }
  std::exception_ptr failure;
  std::atomic<bool> failed = false;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (size_t block = 0; block < blocks; ++block) {
    try {
      if (!failed) fn(block);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace arrow_quant
