// What this machine can do, measured: the roofs that benchmarks are fractions of. Nothing else uses this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace openmoe {

enum class RoofKind {
  read,  // bytes/s read from memory
  copy,  // bytes/s read and written, stores past the cache where there are such
  f32,   // FLOP/s of f32 multiply-adds, two each
  bf16,  // FLOP/s of bf16 pair dot products; without such instructions bf16 is widened to f32, so its roof is f32's
  int8,  // operations/s of u8 x s8 dot products, two per product; without such instructions int8 is widened to f32
};

struct Roof {
  double median, best;
  int clean_slices, slices;  // clean: no thread lost its core
  const char* instructions;
};

// Measures roofs of some threads as often as it is asked: they drift with the neighbours of a virtual machine, and what
// is held against them has to be measured between two of their slices. Keeps the 1 GiB that bandwidths are measured
// over.
class RoofMeter {
 public:
  // Arithmetic is that of an instruction set of the kernels.
  RoofMeter(int num_threads, std::string isa);
  ~RoofMeter();
  RoofMeter(const RoofMeter&) = delete;
  RoofMeter& operator=(const RoofMeter&) = delete;

  // Slices of about a millisecond on threads of its own for `seconds`, up to 5 times that on a busy machine; the first
  // of a bandwidth takes half a second more to fill the memory. Blocks; calls from several threads wait for
  // each other. Throws Error OUT_OF_MEMORY.
  Roof measure(RoofKind kind, double seconds);

 private:
  const int num_threads_;
  const std::string isa_;
  std::mutex mutex_;
  std::byte* memory_ = nullptr;
  int64_t next_slice_ = 0;  // the next measurement goes on where the last ended: there the caches are cold
};

}  // namespace openmoe
