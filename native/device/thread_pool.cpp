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

constexpr uint64_t kOneChunk = uint64_t{1} << 32;

}  // namespace

bool ThreadPool::Share::empty() const {
  const uint64_t now = chunks.load(std::memory_order_relaxed);
  return static_cast<uint32_t>(now >> 32) >= static_cast<uint32_t>(now);
}

// -1: none is left. The claim is what makes the rest of the share visible.
int64_t ThreadPool::Share::claim_first() {
  uint64_t now = chunks.load(std::memory_order_relaxed);
  while (static_cast<uint32_t>(now >> 32) < static_cast<uint32_t>(now))
    if (chunks.compare_exchange_weak(now, now + kOneChunk, std::memory_order_acquire)) return now >> 32;
  return -1;
}

int64_t ThreadPool::Share::claim_last() {
  uint64_t now = chunks.load(std::memory_order_relaxed);
  while (static_cast<uint32_t>(now >> 32) < static_cast<uint32_t>(now))
    if (chunks.compare_exchange_weak(now, now - 1, std::memory_order_acquire)) return static_cast<uint32_t>(now) - 1;
  return -1;
}

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(std::max(1, num_threads)), shares_(std::make_unique<Share[]>(num_threads_)) {
  try {
    for (int i = 1; i < num_threads_; ++i) workers_.emplace_back([this, i] { work(i); });
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

void ThreadPool::run(int64_t count, int64_t grain, Prepare prepare, Body body, void* context) {
  if (count <= 0) return;
  grain = std::max({grain, int64_t{1}, (count + kMaxChunks - 1) / kMaxChunks});
  if (num_threads_ == 1 || count <= grain) {
    if (prepare) prepare(context, 0);
    body(context, 0, count, 0);
    return;
  }
  const int64_t chunks = (count + grain - 1) / grain;
  failed_.store(false, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  ++jobs_;
  for (int i = num_threads_ - 1; i >= 0; --i) {
    Share& share = shares_[i];
    share.prepare = prepare, share.body = body, share.context = context, share.count = count, share.grain = grain;
    share.job = jobs_;
    const uint64_t first = chunks * i / num_threads_, end = chunks * (i + 1) / num_threads_;
    share.chunks.store(first << 32 | end, std::memory_order_release);
  }
  signal_.fetch_add(1, std::memory_order_release);
  signal_.notify_all();

  claim_chunks(0);
  uint32_t done;
  for (int spin = 0; (done = finished_.load(std::memory_order_acquire)) < chunks; ++spin) {
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
  uint32_t done = 0;
  int64_t chunk;
  for (Share& own = shares_[thread]; (chunk = own.claim_first()) >= 0; ++done) run_chunk(own, chunk, thread);
  for (int i = 1; i < num_threads_; ++i)
    for (Share& other = shares_[(thread + i) % num_threads_]; (chunk = other.claim_last()) >= 0; ++done)
      run_chunk(other, chunk, thread);
  if (done == 0) return;
  finished_.fetch_add(done, std::memory_order_acq_rel);
  finished_.notify_all();
}

void ThreadPool::run_chunk(const Share& share, int64_t chunk, int thread) {
  const int64_t begin = chunk * share.grain;
  // A worker may come back into a job it was done with: shares are handed out one after the other.
  uint64_t& prepared_job = shares_[thread].prepared_job;
  try {
    if (share.prepare && prepared_job != share.job) {
      share.prepare(share.context, thread);
      prepared_job = share.job;
    }
    share.body(share.context, begin, std::min(begin + share.grain, share.count), thread);
  } catch (...) {
    std::lock_guard lock(failure_mutex_);
    if (!failure_) failure_ = std::current_exception();
    failed_.store(true, std::memory_order_release);
  }
}

void ThreadPool::work(int thread) {
  for (;;) {
    const uint32_t seen = signal_.load(std::memory_order_acquire);
    if (stop_.load()) return;  // asked between the two: whoever stops the pool signals afterwards
    claim_chunks(thread);
    wait_for_share(thread, seen);
  }
}

// Returns also when a job has begun since `signal_` was seen.
void ThreadPool::wait_for_share(int thread, uint32_t seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (!shares_[thread].empty()) return;
    pause_cpu();
  }
  signal_.wait(seen, std::memory_order_acquire);
}

}  // namespace openmoe
