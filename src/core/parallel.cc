#include "core/parallel.h"

#include <pthread.h>

namespace arrow_quant {
namespace {

std::atomic<bool> looped = false;       // with threads, in this process or the one it comes from
std::atomic<bool> left_behind = false;  // these threads are

}  // namespace

bool threads_are_here() noexcept {
  static const int watched =
      ::pthread_atfork(nullptr, nullptr, [] { left_behind = left_behind || looped; });
  if (left_behind || watched != 0) return false;
  looped = true;
  return true;
}

}  // namespace arrow_quant
