// Memory of the CPU backend. A decode step walks gigabytes of weights, which hardware prefetches page by page: pages
// have 2 MiB where the system allows it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "device/device.h"

namespace openmoe {

class CpuMemory {
 public:
  // Zeroed and aligned to 64 bytes. Throws Error OUT_OF_MEMORY. Matrices too small for large pages of their own share
  // slabs, which go with the last of them.
  std::shared_ptr<Buffer> allocate(size_t bytes);

 private:
  class Pages;
  class Part;

  std::mutex mutex_;
  std::shared_ptr<Pages> slab_;
  size_t slab_used_ = 0;
};

}  // namespace openmoe
