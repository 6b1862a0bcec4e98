#include "support/file_rate.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

#include "device/cpu.h"
#include "device/cpu_memory.h"
#include "support/error.h"
#include "support/input_file.h"

namespace openmoe {

namespace {

constexpr size_t kCachedBytes = size_t{1} << 20;

}  // namespace

double read_file_seconds(const std::string& path, int num_threads, ReadInto into) {
  const InputFile file(path);
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) throw Error("FILE_READ", path + ": " + error.message() + ". Check that it is a file.");
  const size_t block = into == ReadInto::cache ? kCachedBytes : kLargePage;
  Cpu cpu(num_threads);
  cpu.parallel_for(num_threads, 1, [&](int64_t, int64_t, int thread) {
    std::fill_n(cpu.scratch<std::byte>(thread, kCachedBytes), kCachedBytes, std::byte{});
  });

  const auto start = std::chrono::steady_clock::now();
  std::shared_ptr<Buffer> fresh;
  if (into == ReadInto::fresh) fresh = CpuMemory().allocate(size);
  cpu.parallel_for(static_cast<int64_t>((size + block - 1) / block), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t at = static_cast<uint64_t>(i) * block;
      const size_t bytes = std::min<uint64_t>(block, size - at);
      std::byte* to =
          fresh ? static_cast<std::byte*>(fresh->data()) + at : cpu.scratch<std::byte>(thread, kCachedBytes);
      if (fresh) touch_large_pages(to, to + bytes);
      file.read(to, at, bytes);
    }
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace openmoe
