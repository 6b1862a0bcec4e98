// An emulated GPU: device memory that only checked accesses reach, and kernels run block after block.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "gpu/gpu.h"
#include "gpu/stream.h"

namespace openmoe::gpu {

struct MachineOptions {
  int arch = 90;
  int num_sms = 4;
  uint64_t seed = 1;  // of schedules and copy latencies; results must not depend on it
  size_t memory_bytes = size_t{1} << 32;
};

// Not thread-safe: one thread at a time, as a stream.
class Machine {
 public:
  explicit Machine(const MachineOptions& options);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // A device address: no host may read through it, and neither may a kernel without load() or a copy. The bytes are
  // 0xff (NaN in every float format) up to 64 MiB, zero beyond. Null when memory_bytes are used up.
  void* allocate(size_t bytes);
  void free(void* address);
  // Checked as kernels' accesses are; throw Error INTERNAL.
  void write(void* to, const void* from, size_t bytes);
  void read(void* to, const void* from, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);
  void fill(void* to, int byte, size_t bytes);

  // The host has waited for every kernel: an overlapping launch may read what they wrote.
  void synchronize();

  // Runs every block to its end. Throws Error INTERNAL for the first rule that is broken; the machine stays usable.
  void run(const Launch& launch, const std::function<void()>& thread);

  const MachineOptions& options() const { return options_; }
  size_t used_bytes() const { return used_bytes_; }

  struct Allocation {
    uintptr_t address;
    size_t bytes;
    std::byte* host;
    int number;          // in the order of allocation, for messages
    int64_t last_write;  // launch that wrote to it last
  };
  // For the emulated threads: the allocation that holds all the bytes, or an error that says where they are.
  Allocation& find(const void* address, size_t bytes, const char* what);
  int64_t launches() const { return launches_; }
  int64_t synchronized() const { return synchronized_; }

 private:
  MachineOptions options_;
  std::map<uintptr_t, Allocation> allocations_;
  Allocation* last_ = nullptr;  // accesses come in runs
  uintptr_t next_address_;
  size_t used_bytes_ = 0;
  int allocated_ = 0;
  int64_t launches_ = 0, synchronized_ = 0;
};

// A stream of one machine.
class MachineStream final : public Stream {
 public:
  explicit MachineStream(Machine& machine);
  ~MachineStream() override;
  void* workspace(size_t bytes) override;
  int num_sms() const override { return machine_.options().num_sms; }
  int arch() const override { return machine_.options().arch; }
  int32_t* fault() override { return static_cast<int32_t*>(fault_); }
  bool batch_invariant() const override { return invariant; }

  bool invariant = false;

 private:
  void start(const Launch& launch, const std::function<void()>& thread) override { machine_.run(launch, thread); }

  Machine& machine_;
  void* workspace_ = nullptr;
  void* fault_;
};

}  // namespace openmoe::gpu
