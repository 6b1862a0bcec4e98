// One emulated thread block: its fibers, who may run, who waits for what, shared memory as the two kinds of readers see
// it, and copies that are on their way. block.cpp schedules, shared.cpp moves bytes, the other files of this folder are
// the wrappers.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "gpu/emulator/fiber.h"
#include "gpu/emulator/machine.h"

namespace openmoe::gpu::emulator {

struct Random {
  uint64_t state;
  uint64_t next();
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
  bool one_in(uint32_t n) { return below(n) == 0; }
};

// Something that happens later: at a random moment, or, when it is a slow one, not before somebody waits for it.
struct Late {
  std::function<void()> happen;
  bool slow = false, done = false;
};
using LatePtr = std::shared_ptr<Late>;

struct Range {
  uint32_t offset, bytes;
};

// One wgmma as a thread issued it. Equal in all 128 threads of the warpgroup but for d.
struct Wgmma {
  int n, slot;  // slot: which accumulator of the thread
  SharedOperand a, b;
  bool operator==(const Wgmma&) const = default;
};

// Registers that belong to the tensor core until a wait: their values, while the kernel's copy is poison.
struct Accumulator {
  float* d;
  std::vector<float> values;
};

struct Thread {
  int id = 0;
  Fiber fiber;
  bool started = false, done = false, launch_waited = false;
  const char* waits_for = nullptr;  // while blocked, for the report of a deadlock
  Site site;

  // What a lane brings to a warp's meeting and what it takes home.
  uint32_t value = 0, result = 0;
  int operand = 0;
  const void* row = nullptr;
  uint32_t* registers = nullptr;
  const uint32_t *a = nullptr, *stored = nullptr;
  uint32_t b0 = 0, b1 = 0;
  float* c[4] = {};

  std::vector<Range> unpublished;               // generic writes the async proxy cannot see yet
  std::vector<std::vector<LatePtr>> copies{1};  // cp.async groups; the last one is open
  std::vector<LatePtr> open_stores, stores;     // bulk stores: not committed, committed
  bool fenced = false;                          // wgmma_fence() since registers were handed back
  std::vector<Wgmma> issued;
  std::vector<size_t> groups;  // how many were issued at each commit
  std::vector<Accumulator> accumulators;
};

// Threads that come together at one call. The last to arrive does the work for all.
struct Meeting {
  int arrived = 0, expected = 0;
  Site site;
  std::vector<Thread*> waiting;
};

struct BarrierState {
  int arrivals, pending;
  int64_t bytes = 0;  // announced and not yet arrived, or the other way round
  uint32_t phase = 0;
  bool fenced = false;
  std::vector<Thread*> waiting;
};

// The operands of a wgmma when it was issued.
struct Operands {
  std::vector<uint16_t> a, b;  // [64, 16], [n, 16]
  bool operator==(const Operands&) const = default;
};

struct Warpgroup {
  Meeting wait;
  std::vector<Operands> operands;  // of every wgmma issued and not retired
};

class Block {
 public:
  Block(Machine& machine, const Launch& launch, int64_t id, const std::function<void()>& body, uint64_t seed);
  ~Block();
  // Throws the Error of the first broken rule.
  void run();

  // The block whose thread is running; an error outside a kernel.
  static Block& current(const char* what, Site site);
  Thread& self() { return *self_; }
  [[noreturn]] void fail(const std::string& what, Site site);
  void need_arch(int arch, const char* what, Site site);

  void wait(std::vector<Thread*>& list, const char* what, Site site);
  void wake(std::vector<Thread*>& list);
  void maybe_yield();
  // Runs `work` once, in the last of `expected` threads that arrive at `meeting`.
  template <class Work>
  void meet(Meeting& meeting, int expected, const char* what, Site site, Work work) {
    arrive(meeting, expected, what, site);
    if (meeting.arrived < expected) return wait(meeting.waiting, what, site);
    work();
    meeting.arrived = 0;
    wake(meeting.waiting);
  }

  // `forced`: somebody waits for it with a call of its own, so it may be slow for ever.
  LatePtr later(std::function<void()> happen, bool forced);
  void happen(Late& late);

  uint32_t offset(const void* p, size_t bytes, size_t alignment, const char* what, Site site);
  // Generic writes of `writer` that the async proxy does not see before its fence.
  void wrote(Thread& writer, uint32_t offset, uint32_t bytes);
  std::byte* shared() { return shared_; }
  std::byte* async_view() { return async_view_.get(); }
  void landed(uint32_t offset, const void* from, size_t bytes);
  void poison(uint32_t offset, size_t bytes);

  Meeting& warp_meeting() { return warps_[self_->id / kWarp]; }
  Thread* warp_threads() { return &threads_[self_->id / kWarp * kWarp]; }
  Warpgroup& warpgroup() { return warpgroups_[self_->id / kWarpgroup]; }
  Thread* warpgroup_threads() { return &threads_[self_->id / kWarpgroup * kWarpgroup]; }

  Machine& machine;
  const Launch& launch;
  const int num_threads;
  Meeting all, named[16];
  std::unordered_map<uint32_t, BarrierState> barriers;  // by offset in shared memory

 private:
  static void thread_main(void* thread);
  void arrive(Meeting& meeting, int expected, const char* what, Site site);
  Thread* pick();
  void ready(Thread& thread);
  void resume(Thread& thread);
  void cancel();
  bool happen_some(bool nothing_else);
  void check_exit(Thread& thread);
  void check_end();
  std::string deadlock() const;

  const std::function<void()>& body_;
  const int64_t id_;
  Random random_;
  std::unique_ptr<Thread[]> threads_;
  std::vector<Meeting> warps_;
  std::vector<Warpgroup> warpgroups_;
  std::byte* shared_ = nullptr;
  std::unique_ptr<std::byte[]> async_view_;
  std::vector<LatePtr> late_, slow_;
  std::vector<std::vector<Thread*>> ready_;  // per warp
  std::vector<int> ready_warps_;
  int current_warp_ = -1, starved_warp_ = -1, live_;
  Thread* self_ = nullptr;
  bool cancelled_ = false;
  std::exception_ptr failure_;
};

}  // namespace openmoe::gpu::emulator
