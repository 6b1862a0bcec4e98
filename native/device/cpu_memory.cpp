#include "device/cpu_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "support/error.h"

namespace openmoe {

namespace {

// Of addresses; memory comes with the first touch of a large page. Larger buffers are slabs of their own, smaller ones
// than kLeastShared come and go and need no large pages.
#if defined(__linux__)
constexpr size_t kSlabBytes = size_t{256} << 20;
#else
constexpr size_t kSlabBytes = 0;
#endif
constexpr size_t kLeastShared = size_t{64} << 10;

constexpr size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

[[noreturn]] void fail(size_t bytes) {
  char text[160];
  std::snprintf(text, sizeof text,
                "%.2f GiB could not be allocated on cpu. Free memory, or load a smaller model or dtype.",
                static_cast<double>(bytes) / (1 << 30));
  throw Error("OUT_OF_MEMORY", text);
}

}  // namespace

void touch_large_pages(const std::byte* begin, const std::byte* end) {
#if defined(MADV_POPULATE_WRITE)
  static const auto small_page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(begin), last = reinterpret_cast<uintptr_t>(end);
  if (last - first < kLeastShared) return;
  for (uintptr_t page = first / kLargePage * kLargePage; page < last; page += kLargePage) {
    const uintptr_t at = (std::min(page + kLargePage, last) - 1) / small_page * small_page;
    madvise(reinterpret_cast<void*>(at), 1, MADV_POPULATE_WRITE);  // no more than advice: an older kernel refuses it
  }
#else
  static_cast<void>(begin), static_cast<void>(end);
#endif
}

class CpuMemory::Pages : public Buffer {
 public:
  explicit Pages(size_t bytes) : bytes_(bytes) {
#if defined(__linux__)
    // Pages come zeroed from the system. Large ones begin at multiples of their size, which mmap does not promise.
    const bool large = bytes >= kLargePage;
    const size_t used = large ? round_up(bytes, kLargePage) : std::max<size_t>(bytes, 1);
    mapped_ = used + (large ? kLargePage : 0);
    mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) fail(bytes);
    const auto address = reinterpret_cast<uintptr_t>(mapping_);
    data_ = reinterpret_cast<void*>(large ? round_up(address, kLargePage) : address);
    if (large) madvise(data_, used, MADV_HUGEPAGE);
#else
    mapped_ = round_up(std::max<size_t>(bytes, 1), 64);
    mapping_ = data_ = std::aligned_alloc(64, mapped_);
    if (!data_) fail(bytes);
    std::memset(data_, 0, mapped_);
#endif
  }
  ~Pages() override {
#if defined(__linux__)
    munmap(mapping_, mapped_);
#else
    std::free(mapping_);
#endif
  }
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* mapping_;
  void* data_;
  size_t bytes_, mapped_;
};

// Its large pages go back to the system with it, the edges it shares with its neighbours when the slab goes.
class CpuMemory::Part : public Buffer {
 public:
  Part(std::shared_ptr<Pages> slab, size_t offset, size_t bytes)
      : slab_(std::move(slab)), data_(static_cast<std::byte*>(slab_->data()) + offset), bytes_(bytes) {}
  ~Part() override {
#if defined(__linux__)
    const size_t skipped = -reinterpret_cast<uintptr_t>(data_) % kLargePage;
    if (bytes_ >= skipped + kLargePage)
      madvise(data_ + skipped, (bytes_ - skipped) / kLargePage * kLargePage, MADV_DONTNEED);
#endif
  }
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  std::shared_ptr<Pages> slab_;
  std::byte* data_;
  size_t bytes_;
};

std::shared_ptr<Buffer> CpuMemory::allocate(size_t bytes) {
  if (bytes < kLeastShared || bytes > kSlabBytes) return std::make_shared<Pages>(bytes);
  std::lock_guard lock(mutex_);
  if (!slab_ || kSlabBytes - slab_used_ < bytes) {
    slab_ = std::make_shared<Pages>(kSlabBytes);
    slab_used_ = 0;
  }
  const size_t offset = slab_used_;
  slab_used_ = std::min(kSlabBytes, round_up(offset + bytes, 4096));
  return std::make_shared<Part>(slab_, offset, bytes);
}

}  // namespace openmoe
