// A stack of its own and a switch to it: what a CUDA thread of the emulator runs on.
#pragma once

#include <cstddef>

namespace openmoe::gpu::emulator {

class Fiber {
 public:
  using Entry = void (*)(void*);

  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The first resume() calls entry(argument), which must not return. The stack is filled with 0xff first: a float that
  // a kernel forgot to initialise is NaN.
  void start(Entry entry, void* argument);
  // Runs the fiber until it suspends; called by the thread that owns it.
  void resume();
  // Back to resume(); called on the fiber. The last suspension frees what the sanitizer keeps for it.
  void suspend(bool last = false);

 private:
  [[noreturn]] static void enter();

  struct Stack;
  struct Side {
    void* context = nullptr;  // saved stack pointer, or ucontext_t
    const void* bottom = nullptr;
    size_t bytes = 0;
    void* fake_stack = nullptr;
  };
  static void switch_to(Side& from, Side& to, bool last);

  static thread_local Fiber* entering_;
  Stack* stack_ = nullptr;
  Side fiber_, owner_;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  void* initial_context_ = nullptr;
  bool entered_ = false;
};

}  // namespace openmoe::gpu::emulator
