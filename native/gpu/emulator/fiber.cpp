#include "gpu/emulator/fiber.h"

#include <sys/mman.h>

#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace openmoe::gpu::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;  // red zones take room
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kGuardBytes = 4096;
constexpr size_t kPoisonBytes = 12 << 10;  // more than any kernel's frames

}  // namespace

struct Fiber::Stack {
  std::byte* memory;
  Stack() {
    void* p = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    memory = static_cast<std::byte*>(p);
    mprotect(memory, kGuardBytes, PROT_NONE);
  }
  ~Stack() {
#if defined(__SANITIZE_ADDRESS__)
    // Frames that were left behind, not returned from: whoever is given these pages next must not find their red zones.
    ASAN_UNPOISON_MEMORY_REGION(bottom(), kStackBytes);
#endif
    munmap(memory, kStackBytes + kGuardBytes);
  }
  std::byte* bottom() const { return memory + kGuardBytes; }
  std::byte* top() const { return bottom() + kStackBytes; }
};

namespace {

// Stacks of finished fibers: making one costs more than running it.
template <class Stack>
std::vector<std::unique_ptr<Stack>>& idle_stacks() {
  static thread_local std::vector<std::unique_ptr<Stack>> idle;
  return idle;
}

}  // namespace

#if defined(__x86_64__)

// Saves the registers a callee must keep on the old stack, and restores them from the new one.
extern "C" void openmoe_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl openmoe_emulator_switch
.hidden openmoe_emulator_switch
.type openmoe_emulator_switch, @function
openmoe_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size openmoe_emulator_switch, . - openmoe_emulator_switch
)");

namespace {
void switch_context(void*& from, void*& to) { openmoe_emulator_switch(&from, to); }

void* new_context(std::byte* bottom, size_t bytes, void (*enter)()) {
  void** top = reinterpret_cast<void**>(bottom + bytes - 64);
  *--top = nullptr;  // the return address of `enter`, which never returns
  *--top = reinterpret_cast<void*>(enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  return top;
}
void free_context(void*) {}
}  // namespace

#else

namespace {
void switch_context(void*& from, void*& to) {
  ucontext_t here;
  from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

void* new_context(std::byte* bottom, size_t bytes, void (*enter)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = bottom;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, enter, 0);
  return context;
}
void free_context(void* context) { delete static_cast<ucontext_t*>(context); }
}  // namespace

#endif

thread_local Fiber* Fiber::entering_ = nullptr;

void Fiber::start(Entry entry, void* argument) {
  auto& idle = idle_stacks<Stack>();
  if (idle.empty()) {
    stack_ = new Stack;
  } else {
    stack_ = idle.back().release();
    idle.pop_back();
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack_->bottom(), kStackBytes);
#endif
  std::memset(stack_->top() - kPoisonBytes, 0xff, kPoisonBytes);
  entry_ = entry;
  argument_ = argument;
  fiber_ = {new_context(stack_->bottom(), kStackBytes, &Fiber::enter), stack_->bottom(), kStackBytes, nullptr};
  initial_context_ = fiber_.context;
}

Fiber::~Fiber() {
  if (!stack_) return;
  free_context(initial_context_);
  idle_stacks<Stack>().emplace_back(stack_);
}

void Fiber::switch_to(Side& from, Side& to, bool last) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.bottom, to.bytes);
  switch_context(from.context, to.context);
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#else
  (void)last;
  switch_context(from.context, to.context);
#endif
}

void Fiber::enter() {
  Fiber* self = std::exchange(entering_, nullptr);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->owner_.bottom, &self->owner_.bytes);
#endif
  self->entry_(self->argument_);
  std::terminate();  // an entry that returned has no frame to return to
}

void Fiber::resume() {
  if (!entered_) entering_ = this;
  entered_ = true;
  switch_to(owner_, fiber_, false);
}

void Fiber::suspend(bool last) { switch_to(fiber_, owner_, last); }

}  // namespace openmoe::gpu::emulator
