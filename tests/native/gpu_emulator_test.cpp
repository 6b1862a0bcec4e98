// The emulated GPU beside its rules and its wrappers (gpu_rules_test, gpu_conformance_test): schedules, addresses, what
// memory holds before it is written, and which launches it takes.
#include <cstring>
#include <vector>

#include "check.h"
#include "gpu/emulator/machine.h"
#include "gpu/gpu.h"
#include "support/error.h"

namespace openmoe::gpu {
namespace {

using test::expect;

constexpr int kThreads = 128;

// A thread's place in the queue for a counter without protection: what a schedule looks like from inside.
void take_turns(uint32_t* out) {
  auto* count = reinterpret_cast<uint32_t*>(shared_memory());
  if (thread_id() == 0) *count = 0;
  block_sync();
  store(out + thread_id(), (*count)++);
}

std::vector<uint32_t> turns(uint64_t seed) {
  Machine machine({.seed = seed});
  MachineStream stream(machine);
  std::vector<uint32_t> out(kThreads);
  auto* device = static_cast<uint32_t*>(machine.allocate(kThreads * 4));
  stream.launch({"turns", 1, kThreads, 4}, take_turns, device);
  machine.read(out.data(), device, kThreads * 4);
  return out;
}

void schedules_follow_the_seed() {
  const auto first = turns(0), second = turns(1), third = turns(2);
  expect(first != second && second != third, "seeds give different schedules");
  expect(first == turns(0), "a seed gives one schedule");
}

void addresses_have_64_bits() {
  Machine machine({.memory_bytes = size_t{16} << 30});
  MachineStream stream(machine);
  auto* big = static_cast<std::byte*>(machine.allocate(size_t{9} << 30));
  stream.launch(
      {"far", 1, 32, 0},
      +[](std::byte* p) {
        p += (int64_t{1} << 33) + thread_id() * 32;
        store(reinterpret_cast<uint8_t*>(p), 1);
        store(reinterpret_cast<uint16_t*>(p) + 1, load(reinterpret_cast<uint8_t*>(p)));
        store(reinterpret_cast<uint32_t*>(p) + 1, load(reinterpret_cast<uint16_t*>(p) + 1));
        store(reinterpret_cast<uint64_t*>(p) + 1, load(reinterpret_cast<uint32_t*>(p) + 1));
        store(reinterpret_cast<Vec16*>(p) + 1, load_once(reinterpret_cast<Vec16*>(p)));
      },
      big);
  std::vector<uint32_t> words(8 * 32);
  machine.read(words.data(), big + (size_t{1} << 33), words.size() * 4);
  for (int t = 0; t < 32; ++t) {
    const uint32_t* w = &words[t * 8];
    expect((w[0] & 0xff) == 1 && w[0] >> 16 == 1 && w[1] == 1 && w[2] == 1 && w[3] == 0, "1 to 8 bytes beyond 2^33");
    expect(std::memcmp(w, w + 4, 16) == 0, "16 bytes beyond 2^33");
  }
}

// What is read before it is there is NaN: no rule, but no test of numbers passes either.
void early_reads_are_poison() {
  int poisoned = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Machine machine({.arch = 80, .seed = seed});
    MachineStream stream(machine);
    auto* memory = static_cast<std::byte*>(machine.allocate(1024));
    machine.fill(memory, 0, 512);
    stream.launch(
        {"early", 1, 32, 1024},
        +[](std::byte* m) {
          auto* s = reinterpret_cast<uint32_t*>(shared_memory());
          auto* out = reinterpret_cast<uint32_t*>(m + 512);
          if (thread_id() == 0) {
            store(out, s[200]);  // never written
            copy_async16(s, m);
            copy_async_commit();
            store(out + 1, s[1]);  // not waited for
            copy_async_wait<0>();
            store(out + 2, s[1]);
          }
        },
        memory);
    uint32_t seen[4];
    machine.read(seen, memory + 512, sizeof seen);
    expect(seen[0] == ~0u, "unwritten shared memory is poison");
    expect(seen[2] == 0, "a copy that was waited for is there");
    expect(seen[3] == ~0u, "fresh device memory is poison");
    poisoned += seen[1] == ~0u;
  }
  expect(poisoned >= 10, "a copy that was not waited for is mostly not there");
}

void touch(std::byte* memory) { store(memory + thread_id(), std::byte{7}); }

void launches_are_checked() {
  Machine machine({.memory_bytes = 4096});
  MachineStream stream(machine);
  expect(machine.allocate(5000) == nullptr, "no memory left");
  void* some = machine.allocate(1000);
  expect(some && machine.used_bytes() == 1004, "used bytes");
  machine.free(some);
  const auto refused = [&](const char* what, auto call) {
    std::string code;
    try {
      call();
    } catch (const Error& error) {
      code = error.code;
    }
    expect(code == "INTERNAL" || code == "OUT_OF_MEMORY", what);
  };
  refused("33 threads", [&] { stream.launch({"bad", 1, 33}, touch, static_cast<std::byte*>(nullptr)); });
  refused("2048 threads", [&] { stream.launch({"bad", 1, 2048}, touch, static_cast<std::byte*>(nullptr)); });
  refused("a freed address", [&] { machine.fill(some, 0, 1); });
  refused("free() twice", [&] { machine.free(some); });
  refused("a workspace that is too large", [&] { stream.workspace(5000); });
  refused("a wrapper outside a kernel", [] { block_sync(); });
  stream.launch({"none", 0, 33}, touch, static_cast<std::byte*>(nullptr));  // no block, no launch
}

int main() {
  schedules_follow_the_seed();
  addresses_have_64_bits();
  early_reads_are_poison();
  launches_are_checked();
  return test::report();
}

}  // namespace
}  // namespace openmoe::gpu

int main() { return openmoe::gpu::main(); }
