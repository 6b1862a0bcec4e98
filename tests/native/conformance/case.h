// One wrapper of gpu/gpu.h, or a few that only mean something together: a kernel that uses it on random data, and the
// same numbers worked out on the host from what the PTX manual says. The emulator and a GPU are both held to these
// numbers, so they agree with each other.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../bare_device.h"
#include "support/bf16.h"

namespace openmoe::gpu::conformance {

using Words = std::vector<uint32_t>;

struct Case {
  std::string name;
  int arch;          // from which device on
  double tolerance;  // 0: the same bits; else relative L2 error of the words as f32
  std::function<Words(BareDevice&)> run;
  std::function<Words()> expected;
};

inline Words random_words(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Words words(count);
  for (uint32_t& word : words) word = static_cast<uint32_t>(random());
  return words;
}

// Small whole numbers, whose products sum up exactly in any order: a tensor core has no rounding to excuse it.
inline std::vector<uint16_t> whole_bf16(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint16_t> out(count);
  for (uint16_t& v : out) v = to_bf16(static_cast<float>(static_cast<int>(random() % 17) - 8)).bits;
  return out;
}

inline std::vector<uint16_t> normal_bf16(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint16_t> out(count);
  for (uint16_t& v : out) {
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(random() % 65536) / 65536.0f - 0.5f;
    v = to_bf16(sum * 1.732f).bits;
  }
  return out;
}

// An f32 sum of up to 320 products that a tensor core aligns and truncates: 20 steps of 2^-23 of the largest term.
constexpr double kTensorCoreError = 1e-5;

inline double value(uint16_t bf16_bits) { return to_float({bf16_bits}); }
inline uint32_t word(float v) { return __builtin_bit_cast(uint32_t, v); }
inline float number(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// Runs `kernel` in one block on `in` and returns `count` words of output, poisoned before.
template <class T>
Words run_block(BareDevice& device, void (*kernel)(const T*, uint32_t*), int threads, const std::vector<T>& in,
                size_t count, size_t shared_bytes) {
  DeviceArray<T> from(device, in);
  DeviceArray<uint32_t> out(device, count);
  out.poison();
  device.stream().launch({"conformance", 1, threads, shared_bytes}, kernel, static_cast<const T*>(from.data), out.data);
  device.synchronize();
  return out.read();
}

}  // namespace openmoe::gpu::conformance
