// Memory of the CPU backend. A decode step walks gigabytes of weights, which hardware prefetches page by page: pages
// have 2 MiB where the system allows it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "device/device.h"

namespace openmoe {

inline constexpr size_t kLargePage = size_t{2} << 20;

// Has the system make the large pages of [begin, end) now, each touched at its highest address. Reading a file of 0.73
// GB into pages touched there took 62 ms on two cores of Zen 4, into pages first touched by the read itself 74 ms. Why
// was not measured apart; Linux zeroes a large page so that it ends at the address that was touched. Changes no
// content.
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
