// Shared memory as generic code and as asynchronous hardware see it, and copies between the two and global memory.
#include <cstring>

#include "gpu/emulator/block.h"

namespace openmoe::gpu::emulator {

// ---- late events

LatePtr Block::later(std::function<void()> happen, bool forced) {
  auto late = std::make_shared<Late>();
  late->happen = std::move(happen);
  late->slow = random_.one_in(2);
  if (!late->slow)
    late_.push_back(late);
  else if (!forced)
    slow_.push_back(late);
  return late;
}

void Block::happen(Late& late) {
  if (late.done) return;
  late.done = true;
  late.happen();
}

bool Block::happen_some(bool nothing_else) {
  std::erase_if(late_, [](const LatePtr& late) { return late->done; });
  std::vector<LatePtr>& from = late_.empty() && nothing_else ? slow_ : late_;
  if (from.empty()) return false;
  std::swap(from[random_.below(static_cast<uint32_t>(from.size()))], from.back());
  const LatePtr late = from.back();
  from.pop_back();
  try {
    happen(*late);
  } catch (...) {
    failure_ = std::current_exception();
  }
  return true;
}

// ---- shared memory

uint32_t Block::offset(const void* p, size_t bytes, size_t alignment, const char* what, Site site) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(shared_);
  if (offset > launch.shared_bytes || bytes > launch.shared_bytes - offset)
    fail(std::string(what) + ": " + std::to_string(bytes) + " bytes at shared offset " +
             std::to_string(static_cast<intptr_t>(offset)) + ", the block has " + std::to_string(launch.shared_bytes),
         site);
  if (offset % alignment != 0)
    fail(std::string(what) + ": shared offset " + std::to_string(offset) + " is no multiple of " +
             std::to_string(alignment),
         site);
  return static_cast<uint32_t>(offset);
}

void Block::wrote(Thread& writer, uint32_t offset, uint32_t bytes) { writer.unpublished.push_back({offset, bytes}); }

void Block::landed(uint32_t offset, const void* from, size_t bytes) {
  std::memcpy(shared_ + offset, from, bytes);
  std::memcpy(async_view() + offset, from, bytes);
}

void Block::poison(uint32_t offset, size_t bytes) {
  std::memset(shared_ + offset, 0xff, bytes);
  std::memset(async_view() + offset, 0xff, bytes);
}

}  // namespace openmoe::gpu::emulator
