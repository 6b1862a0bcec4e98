#include "device/executor.h"

#include <chrono>

#include "support/error.h"

namespace openmoe {

namespace {

// A decode step follows the one before after about this long: waking a sleeping thread costs a good part of it again.
constexpr auto kBriefly = std::chrono::microseconds(200);

}  // namespace

Executor::Executor(std::unique_ptr<Device> device) : device_(std::move(device)), thread_([this] { loop(); }) {}

Executor::~Executor() {
  close([] {});
  join();
}

std::shared_ptr<Device> Executor::device() {
  std::lock_guard lock(mutex_);
  if (!device_) throw Error("DISPOSED", "The device was disposed. Open a new one.");
  return device_;
}

bool Executor::submit(Job job) {
  std::lock_guard lock(mutex_);
  if (stop_) return false;
  jobs_.push_back(std::move(job));
  num_jobs_.store(jobs_.size(), std::memory_order_relaxed);
  wake_.notify_one();
  return true;
}

bool Executor::close(std::function<void()> closed) {
  std::lock_guard lock(mutex_);
  if (stop_) return false;
  closed_ = std::move(closed);
  stop_ = true;
  wake_.notify_one();
  return true;
}

void Executor::join() {
  if (thread_.joinable()) thread_.join();
}

void Executor::loop() {
  const auto disposed = std::make_exception_ptr(Error("DISPOSED", "The device was disposed before this run finished."));
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
      if (jobs_.empty()) break;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      num_jobs_.store(jobs_.size(), std::memory_order_relaxed);
    }
    std::exception_ptr error = stop_ ? disposed : nullptr;
    if (!error) {
      try {
        job.work(*device_, stop_);
      } catch (...) {
        error = stop_ ? disposed : std::current_exception();
      }
    }
    job.work = nullptr;  // what it held is freed here, not on the JavaScript thread
    job.done(error);
    job.done = nullptr;
    const auto end = std::chrono::steady_clock::now() + kBriefly;
    while (num_jobs_.load(std::memory_order_relaxed) == 0 && !stop_ && std::chrono::steady_clock::now() < end)
      std::this_thread::yield();
  }
  {
    std::lock_guard lock(mutex_);
    device_.reset();  // the arena and the threads go now
  }
  closed_();
}

}  // namespace openmoe
