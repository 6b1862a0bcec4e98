// The emulator's rules: a kernel that breaks one must end in an Error that names the kernel and the rule, on every
// schedule, and leave the machine usable. A rule without an entry here may as well not exist.
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "gpu/emulator/machine.h"
#include "gpu/gpu.h"
#include "support/error.h"

namespace openmoe::gpu {
namespace {

using test::expect;

constexpr uint64_t kSeeds = 8;
constexpr int kBytes = 1024;  // of the memory every kernel gets

struct Rule {
  const char* broken;  // part of the message
  void (*kernel)(std::byte* memory);
  int arch = 90;
  bool overlap = false;
  size_t shared_bytes = 8192;
};

Barrier* barrier() { return reinterpret_cast<Barrier*>(shared_memory() + 4096); }

void make_barrier(int arrivals) {
  if (thread_id() == 0) {
    barrier_init(barrier(), arrivals);
    fence_barrier_init();
  }
  block_sync();
}

// Fills the first 4096 bytes as a bulk copy would, from the kernel's memory.
void load_operands(std::byte* memory) {
  make_barrier(1);
  if (thread_id() == 0) {
    barrier_expect(barrier(), 4096);
    for (int i = 0; i < 4; ++i) bulk_load(shared_memory() + i * 1024, memory, 1024, barrier());
  }
  barrier_wait(barrier(), 0);
}

void multiply(float (&d)[4]) {
  wgmma<8>(d, matrix_descriptor(shared_memory(), 0), matrix_descriptor(shared_memory(), 1024));
}

// With 128 columns of an MN-major operand: two blocks of two groups fill the 4096 bytes.
void multiply_values(std::byte* memory, int start, uint32_t group_stride, uint32_t block_stride) {
  if (memory) load_operands(memory);
  float d[1][64] = {};
  wgmma_fence();
  wgmma<128>(d[0], matrix_descriptor(shared_memory(), 0),
             matrix_descriptor_mn(shared_memory() + start, group_stride, block_stride));
  wgmma_commit();
  wgmma_wait_all(d);
}

template <int kThreads>
void meet_of() {
  named_sync<1, kThreads>();
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPlainWrites = false;  // AddressSanitizer itself ends the process at the first
#else
constexpr bool kPlainWrites = true;
#endif
void write_past_the_end(std::byte*) { shared_memory()[8192 + thread_id()] = std::byte{1}; }

const Rule kRules[] = {
    // global memory
    {"load of 4 bytes at byte 1024 of allocation", [](std::byte* m) { load(reinterpret_cast<int*>(m + kBytes)); }},
    {"store of 16 bytes at byte 1016 of allocation",
     [](std::byte* m) { store(reinterpret_cast<Vec16*>(m + kBytes - 8), Vec16{}); }},
    {"below all device memory", [](std::byte*) { load(static_cast<int*>(nullptr)); }},
    {"misaligned", [](std::byte* m) { load(reinterpret_cast<int*>(m + 2)); }},
    // meeting points
    {"deadlock: thread",
     [](std::byte*) {
       if (thread_id() != 5) block_sync();
     }},
    {"block_sync meets threads that came from",
     [](std::byte*) {
       if (thread_id() < 64)
         block_sync();
       else
         block_sync();
     }},
    {"shuffle_xor meets threads that came from",
     [](std::byte*) {
       if (lane_id() < 16)
         shuffle_xor(1, 1);
       else
         shuffle_xor(2, 1);
     }},
    {"deadlock",
     [](std::byte*) {
       if (lane_id() < 16) ballot(true);
     }},
    {"threads, others wait for",
     [](std::byte*) {
       if (thread_id() < 64)
         meet_of<64>();
       else
         meet_of<128>();
     }},
    // shared memory
    {"past the end of shared memory", write_past_the_end},
    {"stmatrix: 16 bytes at shared offset 8192",
     [](std::byte*) {
       const uint32_t r[4] = {};
       stmatrix_trans_x4(shared_memory() + 8192, r);
     }},
    {"ldmatrix: shared offset 8 is no multiple of 16",
     [](std::byte*) {
       uint32_t r[4];
       ldmatrix_x4(r, shared_memory() + 8);
     }},
    // mbarriers
    {"the barrier is not initialised", [](std::byte*) { barrier_arrive(barrier()); }},
    {"without fence_barrier_init",
     [](std::byte* m) {
       if (thread_id() != 0) return;
       barrier_init(barrier(), 1);
       barrier_expect(barrier(), 1024);
       bulk_load(shared_memory(), m, 1024, barrier());
       barrier_wait(barrier(), 0);
     }},
    {"already initialised", [](std::byte*) { barrier_init(barrier(), 1); }},
    {"more arrivals than the barrier was initialised with",
     [](std::byte* m) {
       make_barrier(2);
       if (thread_id() != 0) return;
       barrier_expect(barrier(), 1024);
       barrier_arrive(barrier());
       barrier_arrive(barrier());
       bulk_load(shared_memory(), m, 1024, barrier());
       barrier_wait(barrier(), 0);
     }},
    {"something wrote over the barrier",
     [](std::byte*) {
       make_barrier(1);
       barrier()->state = 0;
       barrier_arrive(barrier());
     }},
    {"waits in barrier_wait",
     [](std::byte*) {
       make_barrier(1);
       barrier_wait(barrier(), 0);
     }},
    {"waits in barrier_wait",  // too many bytes announced
     [](std::byte* m) {
       make_barrier(1);
       if (thread_id() == 0) {
         barrier_expect(barrier(), 1024);
         bulk_load(shared_memory(), m, 512, barrier());
       }
       barrier_wait(barrier(), 0);
     }},
    // bulk copies
    {"multiples of 16, size is 24",
     [](std::byte* m) {
       make_barrier(1);
       bulk_load(shared_memory(), m, 24, barrier());
     }},
    {"nobody waited for",
     [](std::byte* m) {
       make_barrier(1);
       if (thread_id() == 0) {
         barrier_expect(barrier(), 1024);
         for (int i = 0; i < 32; ++i) bulk_load(shared_memory() + i * 32, m, 32, barrier());
       }
     }},
    {"written without fence_async_shared",
     [](std::byte* m) {
       store_shared(reinterpret_cast<int*>(shared_memory()) + thread_id(), 1);
       block_sync();
       if (thread_id() == 0) bulk_store(m, shared_memory(), 512);
     }},
    {"written without fence_async_shared",  // one thread's fence does not speak for the others
     [](std::byte* m) {
       store_shared(reinterpret_cast<int*>(shared_memory()) + thread_id(), 1);
       block_sync();
       if (thread_id() == 0) fence_async_shared(), bulk_store(m, shared_memory(), 512);
     }},
    {"changed before bulk_wait_read",
     [](std::byte* m) {
       if (thread_id() != 0) return;
       for (int i = 0; i < 100; ++i) {  // lucky timing cannot last
         for (int k = 0; k < 4; ++k) store_shared(reinterpret_cast<int*>(shared_memory()) + k, i);
         fence_async_shared();
         bulk_store(m, shared_memory(), 16);
         bulk_commit();
       }
       bulk_wait();
     }},
    {"bulk_wait without bulk_commit",
     [](std::byte* m) {
       if (thread_id() != 0) return;
       bulk_store(m, shared_memory(), 16);
       bulk_wait();
     }},
    {"ends before bulk_wait",
     [](std::byte* m) {
       if (thread_id() != 0) return;
       bulk_store(m, shared_memory(), 16);
       bulk_commit();
     }},
    // cp.async
    {"ends before copy_async_wait",
     [](std::byte* m) {
       copy_async16(shared_memory() + thread_id() * 16, m);
       copy_async_commit();
     }},
    {"copy_async16 of 17 bytes", [](std::byte* m) { copy_async16(shared_memory(), m, 17); }},
    {"copy_async16 from a misaligned address", [](std::byte* m) { copy_async16(shared_memory(), m + 8, 4); }},
    {"load of 5 bytes at byte 1024 of allocation", [](std::byte* m) { copy_async16(shared_memory(), m + kBytes, 5); }},
    // wgmma
    {"without wgmma_fence",
     [](std::byte* m) {
       load_operands(m);
       float d[4] = {};
       multiply(d);
     }},
    {"without wgmma_fence",  // the kernel had the registers in between
     [](std::byte* m) {
       load_operands(m);
       float d[1][4] = {};
       for (int i = 0; i < 2; ++i) {
         if (i == 0) wgmma_fence();
         multiply(d[0]);
         wgmma_commit();
         wgmma_wait_all(d);
       }
     }},
    {"not committed",
     [](std::byte* m) {
       load_operands(m);
       float d[1][4] = {};
       wgmma_fence();
       multiply(d[0]);
       wgmma_wait_all(d);
     }},
    {"not waited for",
     [](std::byte* m) {
       load_operands(m);
       float d[4] = {};
       wgmma_fence();
       multiply(d);
       wgmma_commit();
     }},
    {"accumulator was written before wgmma_wait",
     [](std::byte* m) {
       load_operands(m);
       float d[1][4] = {};
       wgmma_fence();
       multiply(d[0]);
       wgmma_commit();
       d[0][1] = 0;
       wgmma_wait_all(d);
     }},
    {"was changed before wgmma_wait",
     [](std::byte* m) {
       load_operands(m);
       float d[1][4] = {};
       wgmma_fence();
       multiply(d[0]);
       wgmma_commit();
       store_shared(reinterpret_cast<int*>(shared_memory()) + thread_id(), thread_id());
       fence_async_shared();
       block_sync();
       wgmma_wait_all(d);
     }},
    {"wgmma reads shared memory that was written without fence_async_shared",
     [](std::byte*) {
       for (int i = 0; i < 8; ++i) store_shared(reinterpret_cast<int*>(shared_memory()) + i * 128 + thread_id(), 1);
       block_sync();
       float d[1][4] = {};
       wgmma_fence();
       multiply(d[0]);
       wgmma_commit();
       wgmma_wait_all(d);
     }},
    {"issued different wgmmas",
     [](std::byte* m) {
       load_operands(m);
       float d[1][4] = {};
       wgmma_fence();
       wgmma<8>(d[0], matrix_descriptor(shared_memory(), 0),
                matrix_descriptor(shared_memory() + thread_id() / 32 * 1024, 1024));
       wgmma_commit();
       wgmma_wait_all(d);
     }},
    {"groups of 8 rows must start at multiples of 1024",
     [](std::byte* m) {
       load_operands(m);
       float d[4] = {};
       wgmma_fence();
       wgmma<8>(d, matrix_descriptor(shared_memory() + 128, 0), matrix_descriptor(shared_memory(), 1024));
     }},
    {"past the end of shared memory",
     [](std::byte* m) {
       load_operands(m);
       float d[4] = {};
       wgmma_fence();
       wgmma<8>(d, matrix_descriptor(shared_memory(), 3072), matrix_descriptor(shared_memory(), 1024));
     }},
    {"groups of 8 rows must start at multiples of 1024", [](std::byte* m) { multiply_values(m, 32, 1024, 2048); }},
    {"groups of 8 rows must start at multiples of 1024", [](std::byte* m) { multiply_values(m, 0, 512, 2048); }},
    {"blocks of 64 columns must start at multiples of 1024", [](std::byte* m) { multiply_values(m, 0, 1024, 128); }},
    {"past the end of shared memory", [](std::byte* m) { multiply_values(m, 0, 1024, 7168); }},
    {"past the end of shared memory", [](std::byte* m) { multiply_values(m, 0, 8192, 1024); }},
    {"cannot hold a stride of 262144 bytes", [](std::byte* m) { multiply_values(m, 0, 1024, 1 << 18); }},
    {"written without fence_async_shared",
     [](std::byte* m) {
       load_operands(m);
       if (thread_id() == 0) store_shared(reinterpret_cast<int*>(shared_memory() + 4080), 1);  // of the last k
       block_sync();
       multiply_values(nullptr, 0, 1024, 2048);
     }},
    // devices and launches
    {"needs sm_90, this is sm_80", [](std::byte*) { make_barrier(1); }, 80},
    {"needs sm_90, this is sm_80", [](std::byte*) { wgmma_wait<0>(); }, 80},
    {"bytes of shared memory, a block has 101376", [](std::byte*) {}, 80, false, 120000},
    {"bytes of shared memory, a block has 232448", [](std::byte*) {}, 90, false, 240000},
    {"store before launch_wait", [](std::byte* m) { store(m, std::byte{1}); }, 90, true},
    {"load before launch_wait", [](std::byte* m) { load(m); }, 90, true},
    {"must call launch_wait", [](std::byte*) {}, 90, true},
};

void touch(std::byte* memory) { store(memory + thread_id(), std::byte{7}); }

void every_rule_is_kept() {
  for (const Rule& rule : kRules) {
    if (rule.kernel == write_past_the_end && !kPlainWrites) continue;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      Machine machine({.arch = rule.arch, .seed = seed});
      MachineStream stream(machine);
      auto* memory = static_cast<std::byte*>(machine.allocate(kBytes));
      const Launch good{"good", 1, 128, 128};
      stream.launch(good, touch, memory);  // also makes `memory` something an earlier kernel wrote
      std::string message;
      try {
        stream.launch({"bad", 1, 128, rule.shared_bytes, rule.overlap}, rule.kernel, memory);
      } catch (const Error& error) {
        message = error.what();
      }
      const std::string what = std::string("'") + rule.broken + "' is noticed, seed " + std::to_string(seed);
      expect(message.find(rule.broken) != std::string::npos, what + "; got '" + message + "'");
      expect(message.find("bad") != std::string::npos, "the message names the kernel: " + message);
      stream.launch(good, touch, memory);
      std::byte byte;
      machine.read(&byte, memory + 127, 1);
      expect(byte == std::byte{7}, "the machine works after a failure");
    }
  }
}

int main() {
  every_rule_is_kept();
  return test::report();
}

}  // namespace
}  // namespace openmoe::gpu

int main() { return openmoe::gpu::main(); }
