// Persistent workers for the CPU backend. The calling thread takes part, so a pool of 1 has no worker at all.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace openmoe {

class ThreadPool {
 public:
  using Body = void (*)(void* context, int64_t begin, int64_t end, int thread);
  using Prepare = void (*)(void* context, int thread);

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs body over [0, count) in chunks of `grain`. Each thread begins with a share of neighbouring chunks, in order;
  // one that has none left takes those of others from their end, so a worker that loses its core costs its share only.
  // Which thread runs a chunk is not fixed: a chunk must own its outputs. `prepare`, which may be null, runs once on
  // each thread that gets a chunk, before its first. The first exception is rethrown.
  void run(int64_t count, int64_t grain, Prepare prepare, Body body, void* context);

 private:
  // What a thread has been given of the current job, in one cache line: cores that do not share a cache need a third of
  // a microsecond to see what another one wrote, so a worker waits for this line, and finds all it needs in it. The
  // rest is stable from the claim of a chunk until that chunk is finished.
  struct alignas(64) Share {
    std::atomic<uint64_t> chunks{0};  // the next one (upper half) | the end (lower half)
    Prepare prepare = nullptr;
    Body body = nullptr;
    void* context = nullptr;
    int64_t count = 0, grain = 1;
    uint64_t job = 0;
    uint64_t prepared_job = 0;  // the last one that this share's thread has prepared for; nobody else's business

    bool empty() const;
    int64_t claim_first();
    int64_t claim_last();
  };
  static constexpr int64_t kMaxChunks = int64_t{1} << 30;

  void work(int thread);
  void wait_for_share(int thread, uint32_t seen);
  void claim_chunks(int thread);
  void run_chunk(const Share& share, int64_t chunk, int thread);
  void end_workers();

  const int num_threads_;
  std::unique_ptr<Share[]> shares_;
  uint64_t jobs_ = 0;  // begun so far
  alignas(64) std::atomic<uint32_t> finished_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};  // workers park on this
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  std::vector<std::thread> workers_;
};

}  // namespace openmoe
