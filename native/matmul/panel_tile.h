// The inner loops of matmul/float_matmul.h: a few rows of x times the columns of a packed panel (matmul/panel.h), one
// accumulator per output, k in order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "matmul/panel.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// A tile is up to kTileRows x kTileVectors accumulators: 12 x 2 vectors of 16, 3 x 4 of 8, 2 x 4 of 4. Enough
// independent chains to hide the latency of a multiply-add, and few enough to stay in registers with their operands.
// Narrow vectors are limited by the instructions a cycle: there the loop itself counts.
#if OPENMOE_ISA_LEVEL >= 2
inline constexpr int kTileRows = 12, kTileVectors = 2, kUnroll = 1;
#elif OPENMOE_ISA_LEVEL == 1
inline constexpr int kTileRows = 3, kTileVectors = 4, kUnroll = 2;
#else
inline constexpr int kTileRows = 2, kTileVectors = 4, kUnroll = 4;
#endif

// Both layouts are [words of k][32 columns] of 32-bit words: one f32, or two bf16 neighbours in k. The types below say
// what multiplying a word means; `word` is the address of the first column.
inline constexpr int64_t kWordBytes = kPanel * sizeof(uint32_t);

// sum[r][v] += x[r] * weight(v). The smaller side is held in registers, the other passes through one.
template <int Rows, class F>
inline void add_products(Vec (&sum)[Rows][kTileVectors], const float* x, int64_t x_stride, F&& weight) {
  if constexpr (Rows <= kTileVectors) {
    Vec xs[Rows];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) xs[r] = set1(x[r * x_stride]);
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) {
      const Vec w = weight(v);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) sum[r][v] = fma(xs[r], w, sum[r][v]);
    }
  } else {
    Vec w[kTileVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) w[v] = weight(v);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec xr = set1(x[r * x_stride]);
#pragma GCC unroll 16
      for (int v = 0; v < kTileVectors; ++v) sum[r][v] = fma(xr, w[v], sum[r][v]);
    }
  }
}

struct F32Weights {
  using X = float;
  static constexpr int kPerWord = 1, kXPerWord = 1;

  template <int Rows>
  static void add_word(Vec (&sum)[Rows][kTileVectors], const float* x, int64_t x_stride, const uint32_t* word) {
    add_products(sum, x, x_stride, [&](int v) { return load(reinterpret_cast<const float*>(word + v * kLanes)); });
  }
};

struct Bf16Weights {
  using X = float;
  static constexpr int kPerWord = 2, kXPerWord = 2;

  template <int Half, int Rows>
  static void add_half(Vec (&sum)[Rows][kTileVectors], const float* x, int64_t x_stride, const uint32_t* word) {
    add_products(sum, x + Half, x_stride, [&](int v) {
      Vec pair[2];
      load_pairs(reinterpret_cast<const bf16*>(word + v * kLanes), pair[0], pair[1]);
      return pair[Half];
    });
  }

  template <int Rows>
  static void add_word(Vec (&sum)[Rows][kTileVectors], const float* x, int64_t x_stride, const uint32_t* word) {
    add_half<0>(sum, x, x_stride, word);
    add_half<1>(sum, x, x_stride, word);
  }
};

// What a tile fetches while it multiplies: one() for half a word's bytes, two() for all of them.

// For tiles whose weights come by themselves: asking would take longer than the products of a few rows.
struct NoPrefetch {
  void one() {}
  void two() {}
};

// The lines of the tile's own stream, from memory into L2 first, then into L1; CPUs before AVX-512 do better with the
// second alone. The hardware by itself does not look far enough ahead where the stream pauses for arithmetic.
struct PrefetchAhead {
  static constexpr bool kTwice = OPENMOE_ISA_LEVEL >= 2;
  static constexpr int64_t kToL2 = 8 << 10, kToL1 = kTwice ? 2 << 10 : 1 << 10;
  const std::byte* line;

  void one() {
    if (kTwice) __builtin_prefetch(line + kToL2, 0, 2);
    __builtin_prefetch(line + kToL1, 0, 3);
    line += 64;
  }
  void two() { one(), one(); }
};

// The lines from `line` on, into L1.
struct PrefetchNear {
  const std::byte* line;

  void one() {
    __builtin_prefetch(line, 0, 3);
    line += 64;
  }
  void two() { one(), one(); }
};

// Something else, into L2, `step` bytes at a time: a cache line or a part of one.
struct PrefetchOther {
  const std::byte* from;
  int64_t step;

  void one() {
    __builtin_prefetch(from, 0, 2);
    from += step;
  }
  void two() { one(), one(); }
};

// Tiles that share a block fetch what is needed next meanwhile, the first few of them a part each: memory is busy while
// they multiply. AVX2 has small tiles, which come back often.
inline constexpr int64_t kFetchingTiles = OPENMOE_ISA_LEVEL >= 2 ? 2 : 4;

// The part of `next` that tile i < kFetchingTiles of `tiles` fetches while it passes `passed` bytes.
inline PrefetchOther fetch_part(std::span<const std::byte> next, int64_t i, int64_t tiles, int64_t passed) {
  const int64_t bytes = static_cast<int64_t>(next.size()), parts = std::min(tiles, kFetchingTiles);
  const int64_t calls = std::max<int64_t>(1, parts * (passed / 64));
  return {next.data() + bytes * i / parts, std::min<int64_t>(64, (bytes + calls - 1) / calls)};
}

// One tile over one block of k.
template <class X>
struct Tile {
  const X* x;
  int64_t x_stride;
  const uint32_t* word;
  float* sums;  // rows of 32 columns
  int64_t num_k;
  bool resume;  // the chains go on from `sums`
};

template <int Rows, class W, class Fetch>
void run_tile(const Tile<typename W::X>& t, Fetch fetch) {
  Vec sum[Rows][kTileVectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) sum[r][v] = t.resume ? load(t.sums + r * kPanel + v * kLanes) : zero();

  const typename W::X* x = t.x;
  const uint32_t* word = t.word;
  int64_t k = t.num_k;
#pragma GCC unroll kUnroll
  for (; k >= W::kPerWord; k -= W::kPerWord, x += W::kXPerWord, word += kPanel) {
    fetch.two();
    W::add_word(sum, x, t.x_stride, word);
  }
  if constexpr (W::kPerWord > W::kXPerWord) {
    if (k > 0) W::add_word(sum, x, t.x_stride, word);  // x is padded with zero
  } else if constexpr (W::kPerWord == 2) {
    if (k > 0) W::template add_half<0>(sum, x, t.x_stride, word);
  }

#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) store(t.sums + r * kPanel + v * kLanes, sum[r][v]);
}

template <class W, int Rows = kTileRows, class Fetch = NoPrefetch>
void run_tile_of(int64_t rows, const Tile<typename W::X>& t, Fetch fetch = {}) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return run_tile_of<W, Rows - 1>(rows, t, fetch);
  }
  run_tile<Rows, W>(t, fetch);
}

}  // namespace openmoe::OPENMOE_ISA
