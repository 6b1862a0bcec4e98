// The border between the addon and a GPU module (openmoe_cuda, openmoe_cuda_emulator): a device's memory, its stream,
// and running one op on it. A module is loaded at run time, so that the addon works where there is no CUDA. Nothing
// here throws: what went wrong crosses the border as a Status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gpu/op_list.h"
#include "gpu/pack_weights.h"
#include "program/op.h"

namespace openmoe::gpu {

struct [[nodiscard]] Status {
  const char* code = nullptr;  // as in Error; null when all is well
  std::string message;
  explicit operator bool() const { return code != nullptr; }
};

struct DeviceInfo {
  std::string description;  // e.g. NVIDIA H200
  int capability = 0;       // 90 for compute capability 9.0
  int num_sms = 0;
  size_t total_bytes = 0, free_bytes = 0;  // free is known of an open device only: asking makes a context
  int driver = 0, runtime = 0;             // 13000 for CUDA 13.0; 0 where there is none
};

struct RuntimeOptions {
  bool batch_invariant = false;  // see Stream::batch_invariant
  uint64_t seed = 1;             // of the emulator's schedules
};

// One device. Memory calls may come from any thread, the others from the device's own.
class Runtime {
 public:
  virtual ~Runtime() = default;

  virtual DeviceInfo info() noexcept = 0;
  virtual Status allocate(size_t bytes, void** address) noexcept = 0;
  virtual void free(void* address) noexcept = 0;
  // Copies have happened, in the order of the stream, when they return.
  virtual Status copy_in(void* to, const void* from, size_t bytes) noexcept = 0;
  virtual Status copy_out(void* to, const void* from, size_t bytes) noexcept = 0;
  virtual Status fill(void* to, int byte, size_t bytes) noexcept = 0;

  // A test back end wants memory that nobody has written yet to look like it, and long work cut into small pieces.
  virtual bool is_for_tests() const noexcept { return false; }

  virtual Status pack(const PackWeights& args) noexcept = 0;

  // A run is begin_run, launch for record 0, 1, ... and end_run, which waits. `faulty` is the first record that met an
  // index out of range, or -1. With `times`, end_run appends the microseconds of every record.
  virtual Status begin_run(int num_records, bool times) noexcept = 0;
  virtual Status launch(std::string_view op, const void* args, int record) noexcept = 0;
  virtual Status end_run(int* faulty, std::vector<double>* times) noexcept = 0;
  virtual Status synchronize() noexcept = 0;
};

// What a module exports as openmoe_gpu_module().
struct Module {
  uint64_t stamp;  // contract_stamp() of the sources it was built from
  // Devices that could be opened; a Status says why there is none (no driver, no device).
  Status (*count)(int* devices) noexcept;
  Status (*describe)(int index, DeviceInfo* info) noexcept;
  Status (*open)(int index, const RuntimeOptions& options, Runtime** runtime) noexcept;
};
using ModuleEntry = const Module* (*)();
inline constexpr const char* kModuleEntry = "openmoe_gpu_module";

constexpr uint64_t hash_text(uint64_t hash, std::string_view text) {
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

// Differs when a contract or this border does: a module of other sources would read arguments that mean something else.
constexpr uint64_t contract_stamp() {
  constexpr uint64_t kBorderVersion = 1;
  uint64_t hash = 14695981039346656037u + kBorderVersion;
#define OPENMOE_HASH(op, Contract)                                         \
  hash = hash_text(hash, #op) + sizeof(Contract);                          \
  for (const Field& field : k##Contract##Fields) {                         \
    hash = hash_text(hash_text(hash, field.name), field.spec);             \
    hash = (hash + field.offset) * 31 + static_cast<uint64_t>(field.kind); \
  }
  OPENMOE_GPU_OPS(OPENMOE_HASH)
#undef OPENMOE_HASH
  return hash;
}

}  // namespace openmoe::gpu
