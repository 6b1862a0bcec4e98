// The warpgroup's tensor core. A wgmma takes its accumulator away (the kernel's copy becomes poison) and notes its
// operands; the multiplication happens at the wait, from shared memory as it is then. Operands that changed meanwhile,
// and accumulators that were touched, are errors.
#include <algorithm>
#include <cstring>

#include "gpu/emulator/block.h"

namespace openmoe::gpu {
namespace emulator {
namespace {

constexpr int kRows = 64, kDepth = 16, kMostColumns = 256;

struct Descriptor {
  uint32_t start, block_stride, group_stride;
};

Descriptor decode(Block& block, SharedOperand operand, Site site) {
  const uint64_t bits = operand.descriptor;
  if (bits >> 62 != 1) block.fail("wgmma: only descriptors with the 128-byte swizzle are emulated", site);
  const auto field = [bits](int from) { return static_cast<uint32_t>(bits >> from & 0x3fff) << 4; };
  const Descriptor d{field(0), field(16), field(32)};
  // Otherwise the descriptor needs a base offset, and groups that straddle patterns are easy to get wrong.
  const bool k_major = operand.major == Major::k;
  if (d.start % 1024 >= (k_major ? 128 : 16) || d.group_stride % 1024 != 0)
    block.fail("wgmma: groups of 8 rows must start at multiples of 1024 bytes", site);
  if (!k_major && d.block_stride % 1024 != 0)
    block.fail("wgmma: blocks of 64 columns must start at multiples of 1024 bytes", site);
  return d;
}

// Eight numbers that follow each other, at the address the swizzle makes of theirs.
const std::byte* read_chunk(Block& block, uint32_t address, Site site) {
  address ^= (address >> 7 & 7) << 4;
  if (address + 16 > block.launch.shared_bytes) block.fail("wgmma reads past the end of shared memory", site);
  const std::byte* seen = block.async_view() + address;
  if (std::memcmp(seen, block.shared() + address, 16) != 0)
    block.fail("wgmma reads shared memory that was written without fence_async_shared()", site);
  return seen;
}

// [rows, 16], whichever way it lies in shared memory ("Strides").
std::vector<uint16_t> read_operand(Block& block, SharedOperand operand, int rows, Site site) {
  const Descriptor d = decode(block, operand, site);
  std::vector<uint16_t> numbers(rows * kDepth);
  if (operand.major == Major::k) {
    for (int r = 0; r < rows; ++r)
      for (int chunk = 0; chunk < kDepth / 8; ++chunk) {
        const uint32_t address = d.start + r / 8 * d.group_stride + r % 8 * 128 + chunk * 16;
        std::memcpy(&numbers[r * kDepth + chunk * 8], read_chunk(block, address, site), 16);
      }
    return numbers;
  }
  for (int k = 0; k < kDepth; ++k)
    for (int chunk = 0; chunk < rows / 8; ++chunk) {
      uint16_t column[8];
      const uint32_t row = d.start + chunk / 8 * d.block_stride + k / 8 * d.group_stride + k % 8 * 128;
      std::memcpy(column, read_chunk(block, row + chunk % 8 * 16, site), 16);
      for (int i = 0; i < 8; ++i) numbers[(chunk * 8 + i) * kDepth + k] = column[i];
    }
  return numbers;
}

using Tile = float[kMostColumns][kRows];

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define OPENMOE_WIDE __attribute__((target("avx2")))
#endif

template <int kDummy>
__attribute__((always_inline)) inline void multiply_body(const float (&a)[kDepth][kRows], const uint16_t* b, int n,
                                                         Tile& d) {
  for (int column = 0; column < n; ++column) {
    float sum[kRows];
    std::memcpy(sum, d[column], sizeof sum);
    for (int k = 0; k < kDepth; ++k) {
      const float factor = to_float({b[column * kDepth + k]});
      for (int r = 0; r < kRows; ++r) sum[r] += a[k][r] * factor;
    }
    std::memcpy(d[column], sum, sizeof sum);
  }
}

void multiply(const float (&a)[kDepth][kRows], const uint16_t* b, int n, Tile& d) { multiply_body<0>(a, b, n, d); }
#ifdef OPENMOE_WIDE
OPENMOE_WIDE void multiply_wide(const float (&a)[kDepth][kRows], const uint16_t* b, int n, Tile& d) {
  multiply_body<1>(a, b, n, d);
}
#endif

void run(const Wgmma& op, const Operands& operands, Tile& d) {
  float a[kDepth][kRows];
  for (int r = 0; r < kRows; ++r)
    for (int k = 0; k < kDepth; ++k) a[k][r] = to_float({operands.a[r * kDepth + k]});
#ifdef OPENMOE_WIDE
  static const bool wide = __builtin_cpu_supports("avx2");
  if (wide) return multiply_wide(a, operands.b.data(), op.n, d);
#endif
  multiply(a, operands.b.data(), op.n, d);
}

// Where register i of thread t lies in d ("wgmma Register Fragment layout for D").
int row_of(int t, int i) { return t / 32 * 16 + t % 32 / 4 + (i >> 1 & 1) * 8; }
int column_of(int t, int i) { return (i >> 2) * 8 + t % 4 * 2 + (i & 1); }

// The first `count` operations of the warpgroup, in order, on the accumulator `slot`.
void run_slot(Block& block, size_t count, int slot, Site site) {
  Thread* threads = block.warpgroup_threads();
  Warpgroup& group = block.warpgroup();
  static thread_local Tile tile;
  const int registers = static_cast<int>(threads[0].accumulators[slot].values.size());
  for (int t = 0; t < kWarpgroup; ++t)
    for (int i = 0; i < registers; ++i) tile[column_of(t, i)][row_of(t, i)] = threads[t].accumulators[slot].values[i];
  for (size_t i = 0; i < count; ++i) {
    const Wgmma& op = threads[0].issued[i];
    if (op.slot != slot) continue;
    const Operands now{read_operand(block, op.a, kRows, site), read_operand(block, op.b, op.n, site)};
    if (now != group.operands[i]) block.fail("shared memory that a wgmma reads was changed before wgmma_wait", site);
    run(op, now, tile);
  }
  for (int t = 0; t < kWarpgroup; ++t)
    for (int i = 0; i < registers; ++i) threads[t].accumulators[slot].values[i] = tile[column_of(t, i)][row_of(t, i)];
}

// Gives accumulators that no operation needs any more back to the kernel.
void hand_back(Block& block, Thread& thread, Site site) {
  std::vector<Accumulator> kept;
  std::vector<int> slots;
  for (size_t slot = 0; slot < thread.accumulators.size(); ++slot) {
    Accumulator& accumulator = thread.accumulators[slot];
    const bool needed = std::any_of(thread.issued.begin(), thread.issued.end(),
                                    [&](const Wgmma& op) { return op.slot == static_cast<int>(slot); });
    slots.push_back(static_cast<int>(kept.size()));
    if (needed) {
      kept.push_back(std::move(accumulator));
      continue;
    }
    for (size_t i = 0; i < accumulator.values.size(); ++i)
      if (std::bit_cast<uint32_t>(accumulator.d[i]) != ~0u)
        block.fail("an accumulator was written before wgmma_wait", site);
    std::memcpy(accumulator.d, accumulator.values.data(), accumulator.values.size() * sizeof(float));
    thread.fenced = false;
  }
  for (Wgmma& op : thread.issued) op.slot = slots[op.slot];
  thread.accumulators = std::move(kept);
}

void retire(Block& block, int pending, Site site) {
  Thread* threads = block.warpgroup_threads();
  const Thread& first = threads[0];
  for (int t = 1; t < kWarpgroup; ++t)
    if (threads[t].issued != first.issued || threads[t].groups != first.groups)
      block.fail("the threads of a warpgroup issued different wgmmas", site);
  if (static_cast<int>(first.groups.size()) <= pending) return;
  const size_t groups = first.groups.size() - pending;
  const size_t count = first.groups[groups - 1];
  for (size_t slot = 0; slot < first.accumulators.size(); ++slot) run_slot(block, count, static_cast<int>(slot), site);
  for (int t = 0; t < kWarpgroup; ++t) {
    Thread& thread = threads[t];
    thread.issued.erase(thread.issued.begin(), thread.issued.begin() + count);
    thread.groups.erase(thread.groups.begin(), thread.groups.begin() + groups);
    for (size_t& end : thread.groups) end -= count;
    hand_back(block, thread, site);
  }
  auto& operands = block.warpgroup().operands;
  operands.erase(operands.begin(), operands.begin() + count);
}

// The accumulator with these registers; a new one takes their values and poisons them.
int slot_of(Thread& thread, float* d, int registers) {
  for (size_t i = 0; i < thread.accumulators.size(); ++i)
    if (thread.accumulators[i].d == d) return static_cast<int>(i);
  thread.accumulators.push_back({d, std::vector<float>(d, d + registers)});
  std::memset(d, 0xff, registers * sizeof(float));
  return static_cast<int>(thread.accumulators.size()) - 1;
}

void check_warpgroup(Block& block, const char* what, Site site) {
  block.need_arch(90, what, site);
  if (block.num_threads % kWarpgroup != 0) block.fail(std::string(what) + ": the block has no whole warpgroups", site);
}

}  // namespace

void wgmma(int n, float* d, SharedOperand a, SharedOperand b, Site site) {
  Block& block = Block::current("wgmma", site);
  check_warpgroup(block, "wgmma", site);
  Thread& me = block.self();
  if (!me.fenced) block.fail("wgmma without wgmma_fence() since its registers were the kernel's", site);
  me.issued.push_back({n, slot_of(me, d, n / 2), a, b});
  auto& operands = block.warpgroup().operands;
  if (operands.size() < me.issued.size())  // the first of the warpgroup to come here
    operands.push_back({read_operand(block, a, kRows, site), read_operand(block, b, n, site)});
}

void wgmma_wait(int pending, Site site) {
  Block& block = Block::current("wgmma_wait", site);
  check_warpgroup(block, "wgmma_wait", site);
  Thread& me = block.self();
  const size_t committed = me.groups.empty() ? 0 : me.groups.back();
  if (me.issued.size() != committed) block.fail("wgmma_wait does not wait for a wgmma that is not committed", site);
  block.meet(block.warpgroup().wait, kWarpgroup, "wgmma_wait", site, [&] { retire(block, pending, site); });
}

void move_registers(int, bool, Site site) { check_warpgroup(Block::current("registers", site), "registers", site); }

}  // namespace emulator

void wgmma_fence(Site site) {
  emulator::Block& block = emulator::Block::current("wgmma_fence", site);
  block.self().fenced = true;
}

void wgmma_commit(Site site) {
  emulator::Block& block = emulator::Block::current("wgmma_commit", site);
  block.self().groups.push_back(block.self().issued.size());
}

namespace {

// Bits: 0-13 address / 16, 16-29 leading byte offset / 16, 32-45 stride byte offset / 16, 62-63 128-byte swizzle.
uint64_t descriptor_bits(const void* shared, uint32_t leading, uint32_t stride, Site site) {
  emulator::Block& block = emulator::Block::current("matrix_descriptor", site);
  const uint32_t address = block.offset(shared, 16, 16, "matrix_descriptor", site);
  for (uint32_t bytes : {leading, stride})
    if (bytes % 16 != 0 || bytes >= 1 << 18)
      block.fail("matrix_descriptor cannot hold a stride of " + std::to_string(bytes) + " bytes", site);
  return address >> 4 | static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
         uint64_t{1} << 62;
}

}  // namespace

MatrixDescriptor<Major::k> matrix_descriptor(const void* shared, uint32_t group_stride, Site site) {
  return {descriptor_bits(shared, 16, group_stride, site)};
}

MatrixDescriptor<Major::mn> matrix_descriptor_mn(const void* shared, uint32_t group_stride, uint32_t block_stride,
                                                 Site site) {
  return {descriptor_bits(shared, block_stride, group_stride, site)};
}

}  // namespace openmoe::gpu
