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
    pool_.run(count, grain, nullptr, &call<Body>, const_cast<void*>(static_cast<const void*>(&body)));
  }

  // The same, with prepare(thread) on each thread that gets a chunk, before it.
  template <class P, class F>
  void parallel_for(int64_t count, int64_t grain, P&& prepare, F&& body) {
    struct Both {
      P& prepare;
      F& body;
      void operator()(int64_t begin, int64_t end, int thread) { body(begin, end, thread); }
    } both{prepare, body};
    pool_.run(count, grain, [](void* f, int thread) { static_cast<Both*>(f)->prepare(thread); }, &call<Both>, &both);
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
  template <class F>
  static void call(void* f, int64_t begin, int64_t end, int thread) {
    (*static_cast<F*>(f))(begin, end, thread);
  }

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
