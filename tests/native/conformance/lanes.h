// Wrappers that every device has: lanes, meeting points, memory, arithmetic, the order of launches.
#pragma once

#include "case.h"

namespace openmoe::gpu::conformance {

constexpr int kBlock = 128;

// ---- lanes

constexpr int kLaneWords = 6;

GPU_KERNEL(kBlock, 1) void lanes_kernel(const uint32_t* in, uint32_t* out) {
  const int t = thread_id();
  const uint32_t v = load(in + t);
  uint32_t* mine = out + t * kLaneWords;
  store(mine, shuffle(v, static_cast<int>(v % 32)));
  store(mine + 1, shuffle_xor(v, 9));
  store(mine + 2, shuffle_up(v, 4));
  store(mine + 3, ballot(v % 3 == 0));
  store(mine + 4, match_any(v % 5));
  store(mine + 5, static_cast<uint32_t>(popcount(v) * 100 + lowest_bit(v & 0xf000)));
}

inline Words lanes_expected() {
  const Words in = random_words(kBlock, 1);
  Words out;
  for (int t = 0; t < kBlock; ++t) {
    const uint32_t* warp = &in[t / 32 * 32];
    const int lane = t % 32;
    uint32_t thirds = 0, same = 0;
    for (int i = 0; i < 32; ++i) {
      thirds |= uint32_t{warp[i] % 3 == 0} << i;
      same |= uint32_t{warp[i] % 5 == in[t] % 5} << i;
    }
    int ones = 0, lowest = -1;
    for (int bit = 31; bit >= 0; --bit) {
      ones += in[t] >> bit & 1;
      if ((in[t] & 0xf000) >> bit & 1) lowest = bit;
    }
    out.insert(out.end(), {warp[in[t] % 32], warp[lane ^ 9], lane < 4 ? in[t] : warp[lane - 4], thirds, same,
                           static_cast<uint32_t>(ones * 100 + lowest)});
  }
  return out;
}

// ---- meeting points

GPU_KERNEL(kBlock, 1) void meeting_kernel(const uint32_t* in, uint32_t* out) {
  auto* s = reinterpret_cast<uint32_t*>(shared_memory());
  const int t = thread_id();
  uint32_t v = load(in + t);
  for (int round = 0; round < 20; ++round) {
    s[t] = v;
    block_sync();
    v += s[kBlock - 1 - t];
    block_sync();
    s[t] = v;
    if (t < 64)
      named_sync<1, 64>();
    else
      named_sync<2, 64>();
    v ^= s[t ^ 63];
    block_sync();
    s[t] = v;
    warp_sync();
    v += s[t ^ 31] >> 1;
    block_sync();
  }
  store(out + t, v);
}

inline Words meeting_expected() {
  Words v = random_words(kBlock, 2);
  for (int round = 0; round < 20; ++round) {
    Words s = v;
    for (int t = 0; t < kBlock; ++t) v[t] += s[kBlock - 1 - t];
    s = v;
    for (int t = 0; t < kBlock; ++t) v[t] ^= s[t ^ 63];
    s = v;
    for (int t = 0; t < kBlock; ++t) v[t] += s[t ^ 31] >> 1;
  }
  return v;
}

// ---- memory of every width

GPU_KERNEL(kBlock, 1) void widths_kernel(const uint32_t* in, uint32_t* out) {
  const int t = thread_id();
  const auto* from = reinterpret_cast<const std::byte*>(in) + t * 32;
  auto* to = reinterpret_cast<std::byte*>(out) + t * 32;
  const auto copy = [&]<class T>(int at, T) {
    store(reinterpret_cast<T*>(to + at), load(reinterpret_cast<const T*>(from + at)));
  };
  copy(0, uint8_t{}), copy(1, uint8_t{}), copy(2, uint16_t{}), copy(4, uint32_t{}), copy(8, uint64_t{});
  store(reinterpret_cast<Vec16*>(to + 16), load_once(reinterpret_cast<const Vec16*>(from + 16)));
}

// ---- arithmetic

GPU_KERNEL(kBlock, 1) void exact_kernel(const uint32_t* in, uint32_t* out) {
  const int t = thread_id();
  const float x = static_cast<float>(static_cast<int32_t>(load(in + t))) * 0x1p-28f;
  store(out + 2 * t, __builtin_bit_cast(uint32_t, fma(x, x, -0.75f)));
  store(out + 2 * t + 1, pack_bf16(x, -x * 3.0f));
}

inline Words exact_expected() {
  Words out;
  for (uint32_t v : random_words(kBlock, 3)) {
    const float x = static_cast<float>(static_cast<int32_t>(v)) * 0x1p-28f;
    out.push_back(word(std::fma(x, x, -0.75f)));
    out.push_back(to_bf16(x).bits | uint32_t{to_bf16(-x * 3.0f).bits} << 16);
  }
  return out;
}

GPU_KERNEL(kBlock, 1) void functions_kernel(const uint32_t* in, uint32_t* out) {
  const int t = thread_id();
  const float x = static_cast<float>(static_cast<int32_t>(load(in + t))) * 0x1p-28f;  // -8 to 8
  store(out + 3 * t, __builtin_bit_cast(uint32_t, exp(x)));
  store(out + 3 * t + 1, __builtin_bit_cast(uint32_t, exp_fast(x)));
  store(out + 3 * t + 2, __builtin_bit_cast(uint32_t, rsqrt(x * x)));
}

inline Words functions_expected() {
  Words out;
  for (uint32_t v : random_words(kBlock, 4)) {
    const float x = static_cast<float>(static_cast<int32_t>(v)) * 0x1p-28f;
    const float e = static_cast<float>(std::exp(double{x}));
    out.insert(out.end(), {word(e), word(e), word(static_cast<float>(1 / std::sqrt(double{x * x})))});
  }
  return out;
}

// ---- launch order: a chain of kernels that may overlap, each reading what the one before wrote

constexpr int kChain = 40, kChainBlocks = 64;

GPU_KERNEL(kBlock, 1) void chain_kernel(const uint32_t* from, uint32_t* to, int spin) {
  launch_next();  // the next kernel starts now, and must still wait for what is stored below
  launch_wait();
  const int count = kChainBlocks * kBlock;
  const int i = static_cast<int>(block_id()) * kBlock + thread_id();
  uint32_t v = load(from + (i * 37 + 11) % count);
  for (int n = 0; n < spin; ++n) v = v * 1664525u + 1013904223u;
  store(to + i, v);
}

constexpr int kSpin = BareDevice::kEmulated ? 10 : 2000;  // long enough for the next kernel to overtake

inline Words chain_run(BareDevice& device) {
  DeviceArray<uint32_t> a(device, random_words(kChainBlocks * kBlock, 5)), b(device, kChainBlocks * kBlock);
  device.synchronize();
  for (int n = 0; n < kChain; ++n) {
    uint32_t* from = n % 2 == 0 ? a.data : b.data;
    uint32_t* to = n % 2 == 0 ? b.data : a.data;
    device.stream().launch({"chain", kChainBlocks, kBlock, 0, true}, chain_kernel, static_cast<const uint32_t*>(from),
                           to, kSpin);
  }
  device.synchronize();
  return a.read();
}

inline Words chain_expected() {
  Words v = random_words(kChainBlocks * kBlock, 5);
  for (int n = 0; n < kChain; ++n) {
    const Words from = v;
    for (size_t i = 0; i < v.size(); ++i) {
      v[i] = from[(i * 37 + 11) % v.size()];
      for (int s = 0; s < kSpin; ++s) v[i] = v[i] * 1664525u + 1013904223u;
    }
  }
  return v;
}

inline std::vector<Case> lane_cases() {
  const auto block = [](auto kernel, uint32_t seed, size_t words_in, size_t words_out) {
    return [=](BareDevice& d) {
      return run_block<uint32_t>(d, kernel, kBlock, random_words(words_in, seed), words_out, 4 * kBlock);
    };
  };
  return {
      {"shuffle, shuffle_xor, shuffle_up, ballot, match_any, popcount, lowest_bit", 80, 0,
       block(lanes_kernel, 1, kBlock, kBlock * kLaneWords), lanes_expected},
      {"block_sync, named_sync, warp_sync", 80, 0, block(meeting_kernel, 2, kBlock, kBlock), meeting_expected},
      {"load, store, load_once of 1 to 16 bytes", 80, 0, block(widths_kernel, 6, kBlock * 8, kBlock * 8),
       [] { return random_words(kBlock * 8, 6); }},
      {"fma, pack_bf16", 80, 0, block(exact_kernel, 3, kBlock, kBlock * 2), exact_expected},
      // CUDA promises 2 ulp for exp and rsqrt and 2 + 1.2 |x| for exp_fast, a ulp being up to 1.2e-7.
      {"exp, exp_fast, rsqrt", 80, 1.5e-6, block(functions_kernel, 4, kBlock, kBlock * 3), functions_expected},
      {"launch_wait, launch_next", 80, 0, chain_run, chain_expected},
  };
}

}  // namespace openmoe::gpu::conformance
