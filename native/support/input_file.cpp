#include "support/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "support/error.h"

namespace openmoe {

namespace {

constexpr const char* kBadRead = "Check the disk, then copy or download the file again.";

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path) {
  do fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) fail_read("open", "Check that the file exists and may be read.");
}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

void InputFile::expect_bytes(double bytes) const {
  struct stat status;
  if (fstat(fd_, &status) != 0) fail_read("stat", "Check that the file may be read.");
  if (static_cast<double>(status.st_size) < bytes) fail_truncated(static_cast<uint64_t>(status.st_size));
}

void InputFile::read(void* to, uint64_t offset, size_t bytes) const {
  auto* p = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const ssize_t n = pread(fd_, p, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_read("read", kBadRead);
    if (n == 0) fail_truncated(offset);
    p += n, offset += static_cast<uint64_t>(n), bytes -= static_cast<size_t>(n);
  }
}

void InputFile::read_blocks(std::span<std::byte* const> to, uint64_t offset, size_t bytes) const {
  constexpr size_t kAtOnce = 64;
  while (!to.empty()) {
    iovec blocks[kAtOnce];
    const size_t count = std::min(kAtOnce, to.size());
    for (size_t i = 0; i < count; ++i) blocks[i] = {to[i], bytes};
    const ssize_t n = preadv(fd_, blocks, static_cast<int>(count), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_read("read", kBadRead);
    size_t done = static_cast<size_t>(n) / bytes;
    const size_t begun = static_cast<size_t>(n) % bytes;
    if (done < count) {
      read(to[done] + begun, offset + static_cast<uint64_t>(n), bytes - begun);
      ++done;
    }
    to = to.subspan(done), offset += done * bytes;
  }
}

void InputFile::fail_read(const char* doing, const char* hint) const {
  throw Error("FILE_READ", path_ + ": " + doing + " failed (" + std::strerror(errno) + "). " + hint);
}

void InputFile::fail_truncated(uint64_t end) const {
  throw Error("FILE_TRUNCATED", path_ + ": the file ends after " + std::to_string(end) +
                                    " bytes, inside a tensor. It was cut short: download or copy it again.");
}

}  // namespace openmoe
