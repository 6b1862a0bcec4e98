#include "device/thread_pool.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace openmoe {

namespace {

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Long enough to bridge the gap between two ops of a step, short enough to leave the core to others soon after.
constexpr int kSpins = 2000;

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {  // a limit on threads; destroying a running std::thread would end the process
    end_workers();
    throw;
  }
}

ThreadPool::~ThreadPool() { end_workers(); }

void ThreadPool::end_workers() {
  stop_.store(true);
  signal_.fetch_add(1);
  signal_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t count, int64_t grain, Body body, void* context) {
  if (count <= 0) return;
  grain = std::max({grain, int64_t{1}, (count + kMaxChunks - 1) / kMaxChunks});
  if (workers_.empty() || count <= grain) {
    body(context, 0, count, 0);
    return;
  }
  body_ = body, context_ = context, count_ = count, grain_ = grain;
  num_chunks_ = static_cast<uint32_t>((count + grain - 1) / grain);
  failed_.store(false, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  claim_.store(uint64_t{num_chunks_} << 32, std::memory_order_release);
  signal_.fetch_add(1, std::memory_order_release);
  signal_.notify_all();

  claim_chunks(0);
  uint32_t done;
  for (int spin = 0; (done = finished_.load(std::memory_order_acquire)) < num_chunks_; ++spin) {
    if (spin < kSpins)
      pause_cpu();
    else
      finished_.wait(done, std::memory_order_acquire);
  }
  if (failed_.load(std::memory_order_acquire)) {
    std::lock_guard lock(failure_mutex_);
    std::exception_ptr failure = std::move(failure_);
    failure_ = nullptr;
    std::rethrow_exception(failure);
  }
}

void ThreadPool::claim_chunks(int thread) {
  for (;;) {
    const uint64_t claimed = claim_.fetch_add(1, std::memory_order_acq_rel);
    const uint32_t chunk = static_cast<uint32_t>(claimed), chunks = static_cast<uint32_t>(claimed >> 32);
    if (chunk >= chunks) return;
    // The claimed chunk keeps its job alive, so the members below belong to it.
    const int64_t begin = chunk * grain_;
    try {
      body_(context_, begin, std::min(begin + grain_, count_), thread);
    } catch (...) {
      std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
      failed_.store(true, std::memory_order_release);
    }
    finish_chunk();
  }
}

void ThreadPool::finish_chunk() {
  // num_chunks_ is read before the increment: after the last one the caller may already set up the next job.
  const uint32_t total = num_chunks_;
  if (finished_.fetch_add(1, std::memory_order_acq_rel) + 1 == total) finished_.notify_all();
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t now;
    for (int spin = 0; (now = signal_.load(std::memory_order_acquire)) == seen; ++spin) {
      if (spin < kSpins)
        pause_cpu();
      else
        signal_.wait(seen, std::memory_order_acquire);
    }
    if (stop_.load()) return;
    seen = now;
    claim_chunks(thread);
  }
}

}  // namespace openmoe
