// What a CPU kernel may use besides its contract: the thread pool and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "device/thread_pool.h"

namespace openmoe {

class Cpu {
 public:
  explicit Cpu(int num_threads) : pool_(num_threads), scratch_(num_threads + 2) {}

  int num_threads() const { return pool_.num_threads(); }

  // body(begin, end, thread) over [0, count); see ThreadPool::run. A grain >= count runs inline, at no cost.
  template <class F>
  void parallel_for(int64_t count, int64_t grain, F&& body) {
    using Body = std::remove_reference_t<F>;
    pool_.run(
        count, grain,
        [](void* f, int64_t begin, int64_t end, int thread) { (*static_cast<Body*>(f))(begin, end, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // 64-byte aligned memory of one thread, kept between ops and runs; the contents are not.
  template <class T>
  T* scratch(int thread, int64_t count) {
    return reinterpret_cast<T*>(grow(scratch_[thread], count * sizeof(T)));
  }

  // The same for the thread that runs the op, to be read by all others inside parallel_for.
  template <class T>
  T* shared_scratch(int64_t count) {
    return reinterpret_cast<T*>(grow(scratch_.back(), count * sizeof(T)));
  }

  // And one more, for an op that calls helpers which use shared_scratch themselves.
  template <class T>
  T* workspace(int64_t count) {
    return reinterpret_cast<T*>(grow(scratch_[scratch_.size() - 2], count * sizeof(T)));
  }

 private:
  struct Block {
    std::unique_ptr<std::byte[]> storage;
    std::byte* data = nullptr;
    size_t bytes = 0;
  };
  static std::byte* grow(Block& block, size_t bytes);

  ThreadPool pool_;
  std::vector<Block> scratch_;
};

}  // namespace openmoe
