// Asynchronous copies and mbarriers. A copy poisons its target when it is issued and lands at a random moment, or when
// it is waited for; what it reads is read then.
#include <cstring>

#include "gpu/emulator/block.h"

namespace openmoe::gpu {

using emulator::BarrierState;
using emulator::Block;
using emulator::LatePtr;
using emulator::Thread;

namespace {

constexpr int64_t kMostBytes = (1 << 20) - 1;  // of a barrier's transaction count
constexpr int kMostArrivals = (1 << 20) - 1;
constexpr uint64_t kBarrierMark = 0x6261727269657221;  // what the words of a barrier hold, to notice overwriting

BarrierState& barrier_at(Block& block, const Barrier* b, const char* what, Site site) {
  const uint32_t offset = block.offset(b, sizeof(Barrier), alignof(Barrier), what, site);
  const auto found = block.barriers.find(offset);
  if (found == block.barriers.end()) block.fail(std::string(what) + ": the barrier is not initialised", site);
  if (b->state != (kBarrierMark ^ offset)) block.fail(std::string(what) + ": something wrote over the barrier", site);
  return found->second;
}

void check_phase(Block& block, BarrierState& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.arrivals;
  block.wake(barrier.waiting);
}

void add_bytes(Block& block, BarrierState& barrier, int64_t bytes, const char* what, Site site) {
  barrier.bytes += bytes;
  if (barrier.bytes > kMostBytes || barrier.bytes < -kMostBytes)
    block.fail(std::string(what) + ": the barrier cannot count " + std::to_string(barrier.bytes) + " bytes", site);
}

void arrive(Block& block, BarrierState& barrier, const char* what, Site site) {
  if (barrier.pending == 0)
    block.fail(std::string(what) + ": more arrivals than the barrier was initialised with", site);
  --barrier.pending;
}

void check_bulk(Block& block, const void* shared, const void* global, uint32_t bytes, const char* what, Site site) {
  block.need_arch(90, what, site);
  if (bytes == 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
    block.fail(std::string(what) + ": addresses and size must be multiples of 16, size is " + std::to_string(bytes),
               site);
  block.offset(shared, bytes, 16, what, site);
}

void finish(Block& block, std::vector<LatePtr>& late) {
  for (const LatePtr& one : late) block.happen(*one);
  late.clear();
}

}  // namespace

void barrier_init(Barrier* b, int arrivals, Site site) {
  Block& block = Block::current("barrier_init", site);
  block.need_arch(90, "barrier_init", site);
  const uint32_t offset = block.offset(b, sizeof(Barrier), alignof(Barrier), "barrier_init", site);
  if (arrivals <= 0 || arrivals > kMostArrivals) block.fail("barrier_init: arrivals out of range", site);
  if (block.barriers.contains(offset)) block.fail("barrier_init: the barrier is already initialised", site);
  b->state = kBarrierMark ^ offset;
  block.barriers[offset] = {arrivals, arrivals, 0, 0, false, {}};
  block.maybe_yield();
}

void fence_barrier_init(Site site) {
  Block& block = Block::current("fence_barrier_init", site);
  for (auto& [offset, barrier] : block.barriers) barrier.fenced = true;
}

void barrier_expect(Barrier* b, uint32_t bytes, Site site) {
  Block& block = Block::current("barrier_expect", site);
  BarrierState& barrier = barrier_at(block, b, "barrier_expect", site);
  arrive(block, barrier, "barrier_expect", site);
  add_bytes(block, barrier, bytes, "barrier_expect", site);
  check_phase(block, barrier);
  block.maybe_yield();
}

void barrier_arrive(Barrier* b, Site site) {
  Block& block = Block::current("barrier_arrive", site);
  BarrierState& barrier = barrier_at(block, b, "barrier_arrive", site);
  arrive(block, barrier, "barrier_arrive", site);
  check_phase(block, barrier);
  block.maybe_yield();
}

void barrier_wait(Barrier* b, uint32_t parity, Site site) {
  Block& block = Block::current("barrier_wait", site);
  if (parity > 1) block.fail("barrier_wait: parity must be 0 or 1", site);
  // Read again after waking: by then the phase may have come round.
  while (barrier_at(block, b, "barrier_wait", site).phase == parity)
    block.wait(block.barriers.at(block.offset(b, 8, 8, "barrier_wait", site)).waiting, "barrier_wait", site);
}

void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* b, L2, Site site) {
  Block& block = Block::current("bulk_load", site);
  check_bulk(block, shared, global, bytes, "bulk_load", site);
  BarrierState& barrier = barrier_at(block, b, "bulk_load", site);
  if (!barrier.fenced) block.fail("bulk_load: its barrier was initialised without fence_barrier_init()", site);
  const void* from = emulator::global(global, bytes, false, site);
  const uint32_t offset = block.offset(shared, bytes, 16, "bulk_load", site);
  block.poison(offset, bytes);
  block.later(
      [&block, &barrier, from, offset, bytes, site] {
        block.landed(offset, from, bytes);
        add_bytes(block, barrier, -static_cast<int64_t>(bytes), "bulk_load", site);
        check_phase(block, barrier);
      },
      false);
  block.maybe_yield();
}

void bulk_store(void* global, const void* shared, uint32_t bytes, Site site) {
  Block& block = Block::current("bulk_store", site);
  check_bulk(block, shared, global, bytes, "bulk_store", site);
  auto* to = static_cast<std::byte*>(emulator::global(global, bytes, true, site));
  const uint32_t offset = block.offset(shared, bytes, 16, "bulk_store", site);
  const std::byte* source = block.async_view() + offset;
  if (std::memcmp(source, block.shared() + offset, bytes) != 0)
    block.fail("bulk_store reads shared memory that was written without fence_async_shared()", site);
  std::vector<std::byte> issued(source, source + bytes);
  block.self().open_stores.push_back(block.later(
      [&block, to, source, bytes, site, issued = std::move(issued)] {
        if (std::memcmp(source, issued.data(), bytes) != 0)
          block.fail("the source of a bulk_store was changed before bulk_wait_read()", site);
        std::memcpy(to, source, bytes);
      },
      true));
  block.maybe_yield();
}

void bulk_commit(Site site) {
  Thread& me = Block::current("bulk_commit", site).self();
  me.stores.insert(me.stores.end(), me.open_stores.begin(), me.open_stores.end());
  me.open_stores.clear();
}

void bulk_wait_read(Site site) {
  Block& block = Block::current("bulk_wait", site);
  if (!block.self().open_stores.empty()) block.fail("bulk_wait without bulk_commit waits for nothing", site);
  finish(block, block.self().stores);
}

void bulk_wait(Site site) { bulk_wait_read(site); }

void fence_async_shared(Site site) {
  Block& block = Block::current("fence_async_shared", site);
  for (const auto& [offset, bytes] : block.self().unpublished)
    std::memcpy(block.async_view() + offset, block.shared() + offset, bytes);
  block.self().unpublished.clear();
  block.maybe_yield();
}

void copy_async16(void* shared, const void* global, Site site) { copy_async16(shared, global, 16, site); }

void copy_async16(void* shared, const void* global, int bytes, Site site) {
  Block& block = Block::current("copy_async16", site);
  if (bytes < 0 || bytes > 16) block.fail("copy_async16 of " + std::to_string(bytes) + " bytes", site);
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) block.fail("copy_async16 from a misaligned address", site);
  const void* from = bytes > 0 ? emulator::global(global, bytes, false, site) : nullptr;
  const uint32_t offset = block.offset(shared, 16, 16, "copy_async16", site);
  std::memset(block.shared() + offset, 0xff, 16);
  block.wrote(block.self(), offset, 16);
  block.self().copies.back().push_back(block.later(
      [to = block.shared() + offset, from, bytes] {
        std::memset(to, 0, 16);
        if (bytes > 0) std::memcpy(to, from, bytes);
      },
      true));
}

void copy_async_commit(Site site) { Block::current("copy_async_commit", site).self().copies.emplace_back(); }

namespace emulator {

void copy_async_wait(int pending, Site site) {
  Block& block = Block::current("copy_async_wait", site);
  auto& groups = block.self().copies;  // the last one is open and not waited for
  while (static_cast<int>(groups.size()) - 1 > pending) {
    finish(block, groups.front());
    groups.erase(groups.begin());
  }
}

void wrote_shared(const void* p, size_t bytes, Site site) {
  Block& block = Block::current("store_shared", site);
  block.wrote(block.self(), block.offset(p, bytes, bytes, "store_shared", site), static_cast<uint32_t>(bytes));
  block.maybe_yield();
}

}  // namespace emulator
}  // namespace openmoe::gpu
