// Device memory of the emulated GPU, launches, and the checked accesses of kernels.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <vector>

#include "gpu/emulator/block.h"
#include "gpu/emulator/machine.h"
#include "support/error.h"

namespace openmoe::gpu {
namespace {

// Not canonical on x86-64: a plain access faults at once instead of reading something.
constexpr uintptr_t kFirstAddress = uintptr_t{0x6d} << 56;
constexpr size_t kGap = 1 << 20;  // between allocations
constexpr size_t kAlignment = 256;
constexpr size_t kPoisonLimit = size_t{64} << 20;
constexpr int kMostThreads = 1024;

}  // namespace

Machine::Machine(const MachineOptions& options) : options_(options), next_address_(kFirstAddress) {}

Machine::~Machine() {
  for (auto& [address, allocation] : allocations_) munmap(allocation.host, std::max<size_t>(allocation.bytes, 1));
}

void* Machine::allocate(size_t bytes) {
  if (bytes > options_.memory_bytes - used_bytes_) return nullptr;
  void* host = mmap(nullptr, std::max<size_t>(bytes, 1), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) return nullptr;
  if (bytes <= kPoisonLimit) std::memset(host, 0xff, bytes);
  const uintptr_t address = next_address_;
  allocations_[address] = {address, bytes, static_cast<std::byte*>(host), allocated_++, 0};
  next_address_ += (bytes + kAlignment - 1) / kAlignment * kAlignment + kGap;
  used_bytes_ += bytes;
  return reinterpret_cast<void*>(address);
}

void Machine::free(void* address) {
  if (!address) return;
  const auto found = allocations_.find(reinterpret_cast<uintptr_t>(address));
  if (found == allocations_.end()) throw Error("INTERNAL", "emulator: free() of an address that is not allocated");
  munmap(found->second.host, std::max<size_t>(found->second.bytes, 1));
  used_bytes_ -= found->second.bytes;
  last_ = nullptr;
  allocations_.erase(found);
}

Machine::Allocation& Machine::find(const void* pointer, size_t bytes, const char* what) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const auto holds = [&](const Allocation& a) {
    return address >= a.address && address - a.address <= a.bytes && bytes <= a.bytes - (address - a.address);
  };
  if (last_ && holds(*last_)) return *last_;
  const auto next = allocations_.upper_bound(address);
  Allocation* before = next == allocations_.begin() ? nullptr : &std::prev(next)->second;
  if (before && holds(*before)) return *(last_ = before);
  std::string text = std::string(what) + " of " + std::to_string(bytes) + " bytes ";
  if (!before)
    text += "at an address below all device memory";
  else
    text += "at byte " + std::to_string(address - before->address) + " of allocation " +
            std::to_string(before->number) + ", which has " + std::to_string(before->bytes);
  throw Error("INTERNAL", text);
}

void Machine::write(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const Allocation& a = find(to, bytes, "copy to the device");
  std::memcpy(a.host + (reinterpret_cast<uintptr_t>(to) - a.address), from, bytes);
}

void Machine::read(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const Allocation& a = find(from, bytes, "copy from the device");
  std::memcpy(to, a.host + (reinterpret_cast<uintptr_t>(from) - a.address), bytes);
}

void Machine::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const Allocation& source = find(from, bytes, "copy on the device");
  const Allocation& target = find(to, bytes, "copy on the device");
  std::memmove(target.host + (reinterpret_cast<uintptr_t>(to) - target.address),
               source.host + (reinterpret_cast<uintptr_t>(from) - source.address), bytes);
}

void Machine::fill(void* to, int byte, size_t bytes) {
  if (bytes == 0) return;
  const Allocation& a = find(to, bytes, "fill");
  std::memset(a.host + (reinterpret_cast<uintptr_t>(to) - a.address), byte, bytes);
}

void Machine::synchronize() { synchronized_ = launches_; }

void Machine::run(const Launch& launch, const std::function<void()>& thread) {
  const auto refuse = [&](const std::string& why) {
    throw Error("INTERNAL", std::string("emulator: launch of ") + launch.name + ": " + why);
  };
  if (launch.threads <= 0 || launch.threads > kMostThreads || launch.threads % kWarp != 0)
    refuse(std::to_string(launch.threads) + " threads, expected whole warps, at most 1024 threads");
  const size_t most = options_.arch >= 90 ? kMostShared90 : kMostShared80;
  if (launch.shared_bytes > most)
    refuse(std::to_string(launch.shared_bytes) + " bytes of shared memory, a block has " + std::to_string(most));
  if (launch.grid > INT32_MAX) refuse("too many blocks");
  ++launches_;
  emulator::Random random{(options_.seed + 1) * 0x9E3779B97F4A7C15 + launches_};
  std::vector<int64_t> order(launch.grid);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(static_cast<uint32_t>(i))]);
  for (int64_t id : order) emulator::Block(*this, launch, id, thread, random.next()).run();
}

MachineStream::MachineStream(Machine& machine) : machine_(machine), fault_(machine.allocate(sizeof(int32_t))) {
  if (!fault_) throw Error("OUT_OF_MEMORY", "the emulated device has no memory left");
  machine_.fill(fault_, 0, sizeof(int32_t));
}

MachineStream::~MachineStream() {
  machine_.free(workspace_);
  machine_.free(fault_);
}

void* MachineStream::workspace(size_t bytes) {
  machine_.free(workspace_);  // a fresh one each time: stale contents are poison, not yesterday's numbers
  workspace_ = machine_.allocate(bytes);
  if (!workspace_) throw Error("OUT_OF_MEMORY", "the emulated device has no memory left for a workspace");
  return workspace_;
}

namespace emulator {

void* global(const void* address, size_t bytes, bool write, Site site) {
  const char* what = write ? "store" : "load";
  Block& block = Block::current(what, site);
  Machine::Allocation* allocation = nullptr;
  try {
    allocation = &block.machine.find(address, bytes, what);
  } catch (const Error& error) {
    block.fail(error.what(), site);
  }
  if (std::has_single_bit(bytes) && bytes <= 16 && reinterpret_cast<uintptr_t>(address) % bytes != 0)
    block.fail(std::string(what) + " of " + std::to_string(bytes) + " bytes at a misaligned address", site);
  if (block.launch.overlap && !block.self().launch_waited) {
    if (write) block.fail("store before launch_wait(): earlier kernels may still read that memory", site);
    if (allocation->last_write > block.machine.synchronized())
      block.fail("load before launch_wait() of what an earlier kernel writes", site);
  }
  if (write) allocation->last_write = block.machine.launches();
  std::byte* host = allocation->host + (reinterpret_cast<uintptr_t>(address) - allocation->address);
  if (bytes <= 16) block.maybe_yield();
  return host;
}

}  // namespace emulator

void launch_wait(Site site) {
  emulator::Block& block = emulator::Block::current("launch_wait", site);
  block.self().launch_waited = true;
}

void launch_next(Site site) { emulator::Block::current("launch_next", site); }

}  // namespace openmoe::gpu
