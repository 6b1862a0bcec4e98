// Persistent workers for the CPU backend. The calling thread takes part, so a pool of 1 has no worker at all.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace openmoe {

class ThreadPool {
 public:
  using Body = void (*)(void* context, int64_t begin, int64_t end, int thread);

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body over [0, count) in chunks of `grain`, claimed one by one: a worker that loses its core costs its share
  // only. Which thread runs a chunk is not fixed, so a chunk must own its outputs. The first exception is rethrown.
  void run(int64_t count, int64_t grain, Body body, void* context);

 private:
  void work(int thread);
  void claim_chunks(int thread);
  void finish_chunk();
  void end_workers();

  // The state of a job in one word, so that a claim is one fetch_add whose answer describes the job it belongs to:
  // number of chunks (upper half) | next chunk (lower half). A late worker can only overshoot `next`.
  static constexpr int64_t kMaxChunks = int64_t{1} << 30;
  std::atomic<uint64_t> claim_{0};

  // The current job; stable from its first claim until its last chunk is finished.
  Body body_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0, grain_ = 1;
  uint32_t num_chunks_ = 0;

  alignas(64) std::atomic<uint32_t> finished_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};  // workers park on this
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  std::vector<std::thread> workers_;
};

}  // namespace openmoe
