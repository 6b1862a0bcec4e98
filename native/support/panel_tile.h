// The inner loops of support/panel_matmul.h: a few rows of x times a few columns of a packed panel (support/panel.h),
// one accumulator per output, k in order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "support/panel.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// A tile is Rows x Vectors accumulators, and the largest covers a panel: 3 x 4 vectors of 8, 12 x 2 of 16.
#if OPENMOE_ISA_LEVEL >= 2
inline constexpr int kTileRows = 12, kAccumulators = 24;
#else
inline constexpr int kTileRows = 3, kAccumulators = 12;
#endif

// Both layouts are [words of k][32 columns] of 32-bit words: one f32, or two bf16 neighbours in k. The types below say
// what multiplying a word means; `word` is the address of the first column.

// Where vector v of a column group lies; a group may span two panels.
inline const uint32_t* column(const uint32_t* word, int v, int64_t panel_words) {
  return word + v * kLanes / kPanel * panel_words + v * kLanes % kPanel;
}

// sum[r][v] += x[r] * weight(v). The smaller side is held in registers, the other passes through one.
template <int Rows, int Vectors, class F>
inline void add_products(Vec (&sum)[Rows][Vectors], const float* x, int64_t x_stride, F&& weight) {
  if constexpr (Rows <= Vectors) {
    Vec xs[Rows];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) xs[r] = set1(x[r * x_stride]);
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) {
      const Vec w = weight(v);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) sum[r][v] = fma(xs[r], w, sum[r][v]);
    }
  } else {
    Vec w[Vectors];
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) w[v] = weight(v);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec xr = set1(x[r * x_stride]);
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) sum[r][v] = fma(xr, w[v], sum[r][v]);
    }
  }
}

struct F32Weights {
  using X = float;
  static constexpr int kPerWord = 1, kXPerWord = 1;

  template <int Rows, int Vectors>
  static void add_word(Vec (&sum)[Rows][Vectors], const float* x, int64_t x_stride, const uint32_t* word,
                       int64_t panel_words) {
    add_products(sum, x, x_stride,
                 [&](int v) { return load(reinterpret_cast<const float*>(column(word, v, panel_words))); });
  }
};

struct Bf16Weights {
  using X = float;
  static constexpr int kPerWord = 2, kXPerWord = 2;

  template <int Half, int Rows, int Vectors>
  static void add_half(Vec (&sum)[Rows][Vectors], const float* x, int64_t x_stride, const uint32_t* word,
                       int64_t panel_words) {
    add_products(sum, x + Half, x_stride, [&](int v) {
      Vec pair[2];
      load_pairs(reinterpret_cast<const bf16*>(column(word, v, panel_words)), pair[0], pair[1]);
      return pair[Half];
    });
  }

  template <int Rows, int Vectors>
  static void add_word(Vec (&sum)[Rows][Vectors], const float* x, int64_t x_stride, const uint32_t* word,
                       int64_t panel_words) {
    add_half<0>(sum, x, x_stride, word, panel_words);
    add_half<1>(sum, x, x_stride, word, panel_words);
  }
};

// One tile over one block of k.
template <class X>
struct Tile {
  const X* x;
  int64_t x_stride;
  const uint32_t* word;
  int64_t panel_words;
  float* out;
  int64_t out_stride;
  int64_t num_k;
  int64_t prefetch_words;
  bool resume;  // the chains go on from `out`
};

template <int Rows, int Vectors, class W>
void run_tile(const Tile<typename W::X>& t) {
  Vec sum[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) sum[r][v] = t.resume ? load(t.out + r * t.out_stride + v * kLanes) : zero();

  const typename W::X* x = t.x;
  const uint32_t* word = t.word;
  int64_t k = t.num_k;
  for (; k >= W::kPerWord; k -= W::kPerWord, x += W::kXPerWord, word += kPanel) {
    for (int v = 0; v < Vectors; v += 16 / kLanes)
      __builtin_prefetch(column(word, v, t.panel_words) + t.prefetch_words);
    W::add_word(sum, x, t.x_stride, word, t.panel_words);
  }
  if constexpr (W::kPerWord > W::kXPerWord) {
    if (k > 0) W::add_word(sum, x, t.x_stride, word, t.panel_words);  // x is padded with zero
  } else if constexpr (W::kPerWord == 2) {
    if (k > 0) W::template add_half<0>(sum, x, t.x_stride, word, t.panel_words);
  }

#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) store(t.out + r * t.out_stride + v * kLanes, sum[r][v]);
}

template <int Vectors, class W, int Rows = std::min(kTileRows, kAccumulators / Vectors)>
void run_tile_of(int64_t rows, const Tile<typename W::X>& t) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return run_tile_of<Vectors, W, Rows - 1>(rows, t);
  }
  run_tile<Rows, Vectors, W>(t);
}

// A tile whose last columns do not exist in `out` works on a copy that has them.
template <int Vectors, class W>
void run_edge_tile(int64_t rows, int64_t columns, Tile<typename W::X> t) {
  constexpr int kColumns = Vectors * kLanes;
  float copy[kTileRows * kColumns];
  float* out = std::exchange(t.out, copy);
  const int64_t out_stride = std::exchange(t.out_stride, kColumns);
  if (t.resume)
    for (int64_t r = 0; r < rows; ++r) std::memcpy(copy + r * kColumns, out + r * out_stride, columns * sizeof(float));
  run_tile_of<Vectors, W>(rows, t);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(out + r * out_stride, copy + r * kColumns, columns * sizeof(float));
}

}  // namespace openmoe::OPENMOE_ISA
