#include "pipeline/write_queue.h"

#include <chrono>
#include <utility>

namespace arrow_quant {

WriteQueue::WriteQueue(uint64_t max_bytes, std::function<void()> poll)
    : max_bytes_(max_bytes), poll_(std::move(poll)), thread_([this] { writer_main(); }) {}

WriteQueue::~WriteQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    items_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

template <typename Ready>
void WriteQueue::wait(std::unique_lock<std::mutex>& lock, Ready ready) {
  while (!error_ && !ready()) {
    changed_.wait_for(lock, std::chrono::milliseconds(50));
    lock.unlock();
    poll_();
    lock.lock();
  }
  if (error_) std::rethrow_exception(error_);
}

void WriteQueue::reserve(uint64_t bytes) {
  std::unique_lock lock(mutex_);
  wait(lock, [&] { return in_flight_ == 0 || in_flight_ + bytes <= max_bytes_; });
  in_flight_ += bytes;
}

void WriteQueue::push(uint64_t bytes, std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    items_.push_back({bytes, std::move(work)});
  }
  changed_.notify_all();
}

void WriteQueue::drain() {
  std::unique_lock lock(mutex_);
  wait(lock, [&] { return items_.empty() && !busy_; });
}

void WriteQueue::writer_main() noexcept {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !items_.empty(); });
    if (stopping_) return;
    Item item = std::move(items_.front());
    items_.pop_front();
    busy_ = true;
    lock.unlock();
    std::exception_ptr error;
    try {
      item.work();
    } catch (...) {
      error = std::current_exception();
    }
    item.work = nullptr;  // frees what the work owned before its bytes are given back
    lock.lock();
    busy_ = false;
    in_flight_ -= item.bytes;
    if (error && !error_) error_ = error;
    if (error_) items_.clear();
    changed_.notify_all();
  }
}

}  // namespace arrow_quant
