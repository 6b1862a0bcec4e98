// The bandwidths a memory-bound kernel is held against, measured on the device in the same run: a pure read, and a copy
// counting both directions.
#pragma once

#include "hash_random.h"

namespace openmoe::gpu::bench {

constexpr int kRoofThreads = 512;
constexpr int kInFlight = 8;  // 16-byte loads of a thread before it uses the first

GPU_KERNEL(kRoofThreads, 2) void read_kernel(const Vec16* from, int64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t step = num_blocks() * kRoofThreads;
  for (int64_t i = block_id() * kRoofThreads + thread_id(); i < count; i += step * kInFlight) {
    Vec16 v[kInFlight] = {};
    GPU_UNROLL for (int j = 0; j < kInFlight; ++j) if (i + j * step < count) v[j] = load_once(from + i + j * step);
    GPU_UNROLL for (int j = 0; j < kInFlight; ++j) sum += v[j].word[0] ^ v[j].word[1] ^ v[j].word[2] ^ v[j].word[3];
  }
  store(out + block_id() * kRoofThreads + thread_id(), sum);
}

GPU_KERNEL(kRoofThreads, 2) void copy_kernel(const Vec16* from, int64_t count, Vec16* to) {
  const int64_t step = num_blocks() * kRoofThreads;
  for (int64_t i = block_id() * kRoofThreads + thread_id(); i < count; i += step * kInFlight) {
    Vec16 v[kInFlight];
    GPU_UNROLL for (int j = 0; j < kInFlight; ++j) if (i + j * step < count) v[j] = load_once(from + i + j * step);
    GPU_UNROLL for (int j = 0; j < kInFlight; ++j) if (i + j * step < count) store(to + i + j * step, v[j]);
  }
}

}  // namespace openmoe::gpu::bench
