#include "gpu/emulator/block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "support/error.h"

namespace openmoe::gpu::emulator {

constinit thread_local Here here;

namespace {

thread_local Block* running = nullptr;

struct Cancelled {};

// After the end of shared memory, to notice plain writes there. AddressSanitizer sees them at once, if the size is
// exact.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuardBytes = 0;
#else
constexpr size_t kGuardBytes = 256;
#endif
constexpr int kGuardByte = 0xc3;

std::string at(Site site) {
  if (!site.file) return "?";
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

}  // namespace

uint64_t Random::next() {  // xorshift64*
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545F4914F6CDD1D;
}

Block::Block(Machine& machine, const Launch& launch, int64_t id, const std::function<void()>& body, uint64_t seed)
    : machine(machine),
      launch(launch),
      num_threads(launch.threads),
      body_(body),
      id_(id),
      random_{seed * 0x9E3779B97F4A7C15 | 1},
      threads_(new Thread[launch.threads]),
      warps_(launch.threads / kWarp),
      warpgroups_((launch.threads + kWarpgroup - 1) / kWarpgroup),
      async_view_(new std::byte[launch.shared_bytes]),
      ready_(launch.threads / kWarp),
      live_(launch.threads) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 1024, launch.shared_bytes + kGuardBytes) != 0) throw std::bad_alloc();
  shared_ = static_cast<std::byte*>(memory);
  std::memset(shared_ + launch.shared_bytes, kGuardByte, kGuardBytes);
  poison(0, launch.shared_bytes);
  for (int i = 0; i < num_threads; ++i) threads_[i].id = i;
}

Block::~Block() { std::free(shared_); }

void Block::run() {
  struct Running {
    explicit Running(Block* block) { running = block; }
    ~Running() { running = nullptr; }
  } guard(this);
  here = {0, num_threads, id_, launch.grid, shared_};
  for (int i = 0; i < num_threads; ++i) {
    threads_[i].fiber.start(&Block::thread_main, &threads_[i]);
    ready(threads_[i]);
  }
  while (live_ > 0 && !failure_) {
    if (!late_.empty() && random_.one_in(8)) happen_some(false);
    if (Thread* thread = pick()) {
      resume(*thread);
    } else if (!happen_some(true)) {
      try {
        fail(deadlock(), {});
      } catch (...) {
        failure_ = std::current_exception();
      }
    }
  }
  if (!failure_) {
    try {
      check_end();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  cancel();
  if (failure_) std::rethrow_exception(failure_);
}

void Block::thread_main(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  Block& block = *running;
  try {
    block.body_();
    block.check_exit(thread);
  } catch (const Cancelled&) {
  } catch (...) {
    if (!block.failure_) block.failure_ = std::current_exception();
  }
  thread.done = true;
  --block.live_;
  thread.fiber.suspend(true);
  std::terminate();
}

void Block::resume(Thread& thread) {
  self_ = &thread;
  here.thread_id = thread.id;
  thread.started = true;
  thread.fiber.resume();
  self_ = nullptr;
}

// Unwinds the fibers that are still on their way, so that what the emulator keeps on their stacks is freed.
void Block::cancel() {
  cancelled_ = true;
  for (int i = 0; i < num_threads; ++i)
    if (threads_[i].started && !threads_[i].done) resume(threads_[i]);
}

Block& Block::current(const char* what, Site site) {
  if (!running || !running->self_)
    throw Error("INTERNAL", std::string("emulator: ") + what + " at " + at(site) + " is called outside a kernel");
  return *running;
}

void Block::fail(const std::string& what, Site site) {
  std::string text = std::string("emulator: kernel ") + launch.name + ", block " + std::to_string(id_);
  if (self_) text += ", thread " + std::to_string(self_->id) + " at " + at(site);
  throw Error("INTERNAL", text + ": " + what);
}

void Block::need_arch(int arch, const char* what, Site site) {
  if (machine.options().arch < arch)
    fail(std::string(what) + " needs sm_" + std::to_string(arch) + ", this is sm_" +
             std::to_string(machine.options().arch),
         site);
}

// ---- who runs next: mostly the same warp for a while, and often one warp not at all while others can

void Block::ready(Thread& thread) {
  std::vector<Thread*>& list = ready_[thread.id / kWarp];
  if (list.empty()) ready_warps_.push_back(thread.id / kWarp);
  list.push_back(&thread);
}

Thread* Block::pick() {
  if (ready_warps_.empty()) return nullptr;
  if (random_.one_in(512)) starved_warp_ = random_.one_in(2) ? -1 : static_cast<int>(random_.below(warps_.size()));
  const bool stay = current_warp_ >= 0 && !ready_[current_warp_].empty() && !random_.one_in(8);
  if (!stay) {
    size_t i = random_.below(ready_warps_.size());
    if (ready_warps_[i] == starved_warp_) i = (i + 1) % ready_warps_.size();
    current_warp_ = ready_warps_[i];
  }
  std::vector<Thread*>& list = ready_[current_warp_];
  std::swap(list[random_.below(list.size())], list.back());
  Thread* thread = list.back();
  list.pop_back();
  if (list.empty()) std::erase(ready_warps_, current_warp_);
  return thread;
}

void Block::wait(std::vector<Thread*>& list, const char* what, Site site) {
  Thread& me = *self_;
  me.waits_for = what;
  me.site = site;
  list.push_back(&me);
  me.fiber.suspend();
  if (cancelled_) throw Cancelled{};
  me.waits_for = nullptr;
}

void Block::wake(std::vector<Thread*>& list) {
  for (Thread* thread : list) ready(*thread);
  list.clear();
}

void Block::maybe_yield() {
  if (!random_.one_in(64)) return;
  Thread& me = *self_;
  ready(me);
  me.fiber.suspend();
  if (cancelled_) throw Cancelled{};
}

void Block::arrive(Meeting& meeting, int expected, const char* what, Site site) {
  if (meeting.arrived == 0) {
    meeting.site = site;
    meeting.expected = expected;
  } else if (meeting.site != site) {
    fail(std::string(what) + " meets threads that came from " + at(meeting.site) + ": all must come by the same line",
         site);
  } else if (meeting.expected != expected) {
    fail(std::string(what) + " of " + std::to_string(expected) + " threads, others wait for " +
             std::to_string(meeting.expected),
         site);
  }
  ++meeting.arrived;
}

std::string Block::deadlock() const {
  std::string text = "deadlock: ";
  int shown = 0;
  for (int i = 0; i < num_threads; ++i) {
    const Thread& thread = threads_[i];
    if (thread.done) continue;
    const bool repeats = i > 0 && threads_[i - 1].waits_for == thread.waits_for && threads_[i - 1].site == thread.site;
    if (repeats || ++shown > 6) continue;
    text += (shown > 1 ? "; thread " : "thread ") + std::to_string(i) + " waits in " +
            (thread.waits_for ? thread.waits_for : "?") + " at " + at(thread.site);
  }
  return text;
}

// ---- what must not be left behind

void Block::check_exit(Thread& thread) {
  const Site nowhere{};
  if (!thread.issued.empty()) fail("the thread ends with a wgmma that was not waited for", nowhere);
  if (!thread.stores.empty() || !thread.open_stores.empty())
    fail("the thread ends before bulk_wait: its bulk store may still read shared memory", nowhere);
  for (const auto& group : thread.copies)
    if (!group.empty()) fail("the thread ends before copy_async_wait: its copy may still write shared memory", nowhere);
}

void Block::check_end() {
  std::erase_if(late_, [](const LatePtr& late) { return late->done; });
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (shared_[launch.shared_bytes + i] != std::byte{kGuardByte}) fail("a write past the end of shared memory", {});
  if (!late_.empty() || !slow_.empty()) fail("the block ends with a copy on its way that nobody waited for", {});
  for (const auto& [offset, barrier] : barriers)
    if (barrier.bytes != 0) fail("the block ends with a barrier that still waits for bytes", {});
  const bool waited = std::any_of(&threads_[0], &threads_[num_threads], [](auto& t) { return t.launch_waited; });
  if (launch.overlap && !waited) fail("an overlapping launch must call launch_wait()", {});
}

}  // namespace openmoe::gpu::emulator
