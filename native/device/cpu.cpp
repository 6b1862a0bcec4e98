#include "device/cpu.h"

#include <bit>

namespace openmoe {

std::byte* Cpu::grow(Block& block, size_t bytes) {
  constexpr size_t kAlign = 64;
  if (bytes > block.bytes) {
    const size_t size = std::bit_ceil(bytes);
    block.bytes = 0;
    block.storage.reset();  // the old contents are not kept, so do not hold both
    block.storage.reset(new std::byte[size + kAlign]);
    const auto address = reinterpret_cast<uintptr_t>(block.storage.get());
    block.data = block.storage.get() + ((kAlign - address % kAlign) % kAlign);
    block.bytes = size;
  }
  return block.data;
}

}  // namespace openmoe
