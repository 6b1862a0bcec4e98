// Random numbers that any language can make in any order: number i of tensor `seed` is a function of the two. Weights
// of 10 GB never travel; bench/peers/moe_peers.py has the same functions, and a test holds the two together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gpu/gpu.h"
#include "gpu/stream.h"

namespace openmoe::gpu::bench {

constexpr uint32_t mix(uint32_t z) {
  z = (z ^ z >> 16) * 0x21f0aaadu;
  z = (z ^ z >> 15) * 0x735a2d97u;
  return z ^ z >> 15;
}
constexpr uint32_t hash(uint32_t seed, uint32_t i) { return mix(mix(seed) + i); }

// Roughly normal, mean 0: the sum of four bytes, whose standard deviation is 147.8, times `scale`. One f32 product, so
// every language gets the same bits.
constexpr float kByteSumDeviation = 147.8f;
constexpr float random_normal(uint32_t seed, uint32_t i, float scale) {
  const uint32_t h = hash(seed, i);
  return static_cast<float>(static_cast<int>((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) - 510) * scale;
}
constexpr double random_unit(uint32_t seed, uint32_t i) { return hash(seed, i) * 0x1p-32; }

// Seeds of the tensors; expert e of a stack adds e, set s of activations adds s.
enum Seed : uint32_t {
  kRouterSeed = 2,
  kIdSeed = 3000,
  kWeightSeed = 4000,
  kXSeed = 1000,
  kGateUpSeed = 10000,
  kDownSeed = 20000
};

constexpr int kFillThreads = 256;
constexpr int64_t kFillBlocks = 1 << 14;

GPU_KERNEL(kFillThreads, 2) void fill_f32_kernel(float* to, int64_t count, uint32_t seed, float scale) {
  for (int64_t i = block_id() * kFillThreads + thread_id(); i < count; i += num_blocks() * kFillThreads)
    store(to + i, random_normal(seed, static_cast<uint32_t>(i), scale));
}

// Two numbers a thread; count is even.
GPU_KERNEL(kFillThreads, 2) void fill_bf16_kernel(uint16_t* to, int64_t count, uint32_t seed, float scale) {
  for (int64_t i = 2 * (block_id() * kFillThreads + thread_id()); i < count; i += 2 * num_blocks() * kFillThreads)
    store(reinterpret_cast<uint32_t*>(to + i), pack_bf16(random_normal(seed, static_cast<uint32_t>(i), scale),
                                                         random_normal(seed, static_cast<uint32_t>(i + 1), scale)));
}

inline int64_t fill_blocks(int64_t count) { return std::min((count + kFillThreads - 1) / kFillThreads, kFillBlocks); }
inline void fill_f32(Stream& stream, float* to, int64_t count, uint32_t seed, float scale) {
  stream.launch({"fill_f32", fill_blocks(count), kFillThreads}, fill_f32_kernel, to, count, seed, scale);
}
inline void fill_bf16(Stream& stream, uint16_t* to, int64_t count, uint32_t seed, float scale) {
  stream.launch({"fill_bf16", fill_blocks(count / 2), kFillThreads}, fill_bf16_kernel, to, count, seed, scale);
}

enum class Routing { uniform, zipf, one };
constexpr const char* kRoutingNames[] = {"uniform", "zipf0.7", "all-to-one"};

// [num_tokens, 2] different experts of each token. Zipf: expert e with probability ~ (e+1)^-0.7. All-to-one: every
// token takes experts 0 and 1, top-2 of one expert being impossible.
inline std::vector<int32_t> random_ids(Routing routing, int num_tokens, int num_experts, uint32_t seed) {
  std::vector<double> share(num_experts);
  double sum = 0;
  for (int e = 0; e < num_experts; ++e) sum += share[e] = routing == Routing::zipf ? std::pow(e + 1.0, -0.7) : 1.0;
  uint32_t drawn = 0;
  const auto draw = [&] {
    double u = random_unit(seed, drawn++) * sum;
    int e = 0;
    while (e < num_experts - 1 && u >= share[e]) u -= share[e++];
    return e;
  };
  std::vector<int32_t> ids;
  for (int t = 0; t < num_tokens; ++t) {
    const int first = routing == Routing::one ? 0 : draw();
    int second = routing == Routing::one ? 1 : draw();
    while (second == first) second = draw();
    ids.insert(ids.end(), {first, second});
  }
  return ids;
}

}  // namespace openmoe::gpu::bench
