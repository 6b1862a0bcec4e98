// A file that weights are read from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace openmoe {

class InputFile {
 public:
  // Throws FILE_READ.
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;

  // Throws FILE_TRUNCATED when the file is shorter. In double: sizes that overflow 64 bits are beyond any file's end.
  void expect_bytes(double bytes) const;
  // Throws FILE_READ or FILE_TRUNCATED.
  void read(void* to, uint64_t offset, size_t bytes) const;
  // The same of blocks of `bytes` that follow each other in the file, each to a place of its own.
  void read_blocks(std::span<std::byte* const> to, uint64_t offset, size_t bytes) const;

 private:
  [[noreturn]] void fail_read(const char* doing, const char* hint) const;
  [[noreturn]] void fail_truncated(uint64_t end) const;

  std::string path_;
  int fd_;
};

}  // namespace openmoe
