// Memory of the CPU backend. A decode step walks gigabytes of weights, which hardware prefetches page by page: pages
// have 2 MiB where the system allows it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "device/device.h"

namespace openmoe {

inline constexpr size_t kLargePage = size_t{2} << 20;

// Lets the system zero the large pages of [begin, end) now, each from its lowest address up. Left to the first write,
// which comes at the lowest address, Linux zeroes a page downwards and ends there: that takes twice as long, and what
// is written next is out of the cache again. Changes no content.
void touch_large_pages(const std::byte* begin, const std::byte* end);

class CpuMemory {
 public:
  // Zeroed and aligned to 64 bytes. Throws Error OUT_OF_MEMORY. Buffers follow each other in slabs, so that no matrix
  // ends in small pages.
  std::shared_ptr<Buffer> allocate(size_t bytes);

 private:
  class Pages;
  class Part;

  std::mutex mutex_;
  std::shared_ptr<Pages> slab_;
  size_t slab_used_ = 0;
};

}  // namespace openmoe
