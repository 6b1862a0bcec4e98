// What this machine can do, measured: the roofs that benchmarks are fractions of. Nothing else uses this.
#pragma once

#include <string_view>

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

// Measures slices of about a millisecond on threads of its own for `seconds`, up to 5 times that on a busy machine
// (memory kinds take half a second more to fill 1 GiB). Arithmetic is that of an instruction set of the kernels.
// Blocks. Throws Error OUT_OF_MEMORY.
Roof measure_roof(RoofKind kind, int num_threads, double seconds, std::string_view isa);

}  // namespace openmoe
