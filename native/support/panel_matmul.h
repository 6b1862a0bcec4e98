// The matrix engine of the CPU backend: out = x W^T over packed panels (support/panel.h) for groups of rows, each with
// weights of its own. linear is one group, grouped_gemm one per expert.
//
// Each output is one chain of multiply-adds over k in order. Tiles, blocks (between two blocks of k an accumulator
// rests in `out`, exactly) and threads choose which chains run side by side, never their order: GEMV and GEMM, any
// batch and any number of threads give the same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "device/cpu.h"
#include "program/op.h"
#include "support/panel.h"
#include "support/panel_tile.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// A panel's weights over a block of k (16 KiB) stay in L1 while the rows of an item pass by.
inline constexpr int64_t kBlockWords = 128;
// Widening bf16 inside the largest tile needs more than 16 registers. There, tiles of two rows widen as they go, up to
// kDirectRows; with more rows a block is widened once for all of them.
inline constexpr bool kWidenBlocks = OPENMOE_ISA_LEVEL < 2;
inline constexpr int64_t kDirectRows = 8;
// The rows of an item over a block of k (48 or 96 KiB of x) stay in L2 while its panels pass by.
inline constexpr int64_t kItemRows = 96;
// Numbers of x that leave room for a stream in L2.
inline constexpr int64_t kSmallX = 32768;
// A single tile streams its panels from memory, and hardware prefetch pauses at every 4 KiB page.
inline constexpr int64_t kPrefetchWords = 1024;

// Rows of x and out that share one matrix.
struct RowGroup {
  const std::byte* weight;
  int64_t first_row, num_rows;
  int64_t first_item = 0;  // filled in by matmul
};

// A work item: some rows of a group times some panels of its matrix.
template <class X>
struct Item {
  const X* x;
  int64_t x_stride, rows;
  const uint32_t* weight;
  int64_t panel_words, first_panel, end_panel;
  float* out;
  int64_t in_features, out_features;
};

// All rows of an item times the panel at `word` (and its neighbour, in wide column groups) over a block of k.
template <int Vectors, class W, int TileRows = kTileRows>
void run_panel(const Item<typename W::X>& m, int64_t panel, const uint32_t* word, int64_t k, int64_t num_k) {
  constexpr int kColumns = Vectors * kLanes;
  const int64_t tiles = (m.rows + TileRows - 1) / TileRows, tile_rows = m.rows / tiles, longer = m.rows % tiles;
  const int64_t end = std::min((panel + std::max(1, kColumns / kPanel)) * kPanel, m.out_features);
  for (int64_t c = panel * kPanel; c < end; c += kColumns) {
    Tile<typename W::X> t{.x = m.x + k / W::kPerWord * W::kXPerWord,
                          .x_stride = m.x_stride,
                          .word = word + c % kPanel,
                          .panel_words = m.panel_words,
                          .out = m.out + c,
                          .out_stride = m.out_features,
                          .num_k = num_k,
                          .prefetch_words = tiles == 1 ? kPrefetchWords : kBlockWords * kPanel,
                          .resume = k > 0};
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t rows = tile_rows + (i < longer);
      if (end - c < kColumns)
        run_edge_tile<Vectors, W>(rows, end - c, t);
      else
        run_tile_of<Vectors, W>(rows, t);
      t.x += rows * m.x_stride, t.out += rows * m.out_features;
      t.prefetch_words = 0;
    }
  }
}

inline void widen_panel(const uint32_t* from, int64_t words, float* to) {
  for (int64_t i = 0; i < words; ++i, from += kPanel, to += 2 * kPanel)
    for (int c = 0; c < kPanel; c += kLanes) {
      Vec even, odd;
      load_pairs(reinterpret_cast<const bf16*>(from + c), even, odd);
      if (c % 16 == 0) __builtin_prefetch(from + c + kBlockWords / 2 * kPanel);
      store(to + c, even);
      store(to + kPanel + c, odd);
    }
}

template <int Vectors, class W>
void run_item(const Item<typename W::X>& m) {
  constexpr int64_t kGroupPanels = std::max(1, Vectors * kLanes / kPanel);
  constexpr bool kWiden = kWidenBlocks && std::is_same_v<W, Bf16Weights>;
  const bool one_tile = m.rows <= kTileRows;
  const int64_t block = one_tile ? std::max<int64_t>(m.in_features, 1) : kBlockWords * (kWiden ? 1 : W::kPerWord);
  // All panels pass by one block of x before the next, unless all of x stays in L2: then each panel is one stream.
  const int64_t span = m.rows * m.in_features <= kSmallX ? kGroupPanels : m.end_panel - m.first_panel;
  for (int64_t first = m.first_panel; first < m.end_panel; first += span) {
    const int64_t end = std::min(first + span, m.end_panel);
    for (int64_t k = 0; k == 0 || k < m.in_features; k += block) {
      const int64_t num_k = std::min(block, m.in_features - k);
      for (int64_t panel = first; panel < end; panel += kGroupPanels) {
        const uint32_t* word = m.weight + panel * m.panel_words + k / W::kPerWord * kPanel;
        if constexpr (kWiden) {
          if (!one_tile && m.rows <= kDirectRows) {
            run_panel<Vectors, W, 2>(m, panel, word, k, num_k);
            continue;
          }
          if (!one_tile) {
            alignas(64) float wide[kBlockWords * kPanel];
            widen_panel(word, (num_k + 1) / 2, wide);
            run_panel<Vectors, F32Weights>(m, panel, reinterpret_cast<const uint32_t*>(wide), k, num_k);
            continue;
          }
        }
        if constexpr (kGroupPanels > 1) {
          if (panel + 1 == end) {
            run_panel<Vectors / 2, W>(m, panel, word, k, num_k);
            continue;
          }
        }
        run_panel<Vectors, W>(m, panel, word, k, num_k);
      }
    }
  }
}

// Few rows take wide column groups: enough independent chains to hide the latency of the multiply-add.
template <class W, int Vectors = std::min(64 / kLanes, 8)>
void run_item_of(const Item<typename W::X>& m) {
  if constexpr (Vectors > 2) {
    if (std::min<int64_t>(m.rows, kTileRows) * Vectors > kAccumulators) return run_item_of<W, Vectors / 2>(m);
  }
  run_item<Vectors, W>(m);
}

#if OPENMOE_ISA_LEVEL == 3
// Two neighbours in k of a row of x, rounded to bf16: the other operand of a pair dot product.
struct Bf16PairWeights {
  using X = uint32_t;
  static constexpr int kPerWord = 2, kXPerWord = 1;

  template <int Rows, int Vectors>
  static void add_word(Vec (&sum)[Rows][Vectors], const uint32_t* x, int64_t x_stride, const uint32_t* word,
                       int64_t panel_words) {
    __m512bh w[Vectors];
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) w[v] = (__m512bh)_mm512_loadu_si512(column(word, v, panel_words));
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const auto xr = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r * x_stride]));
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], w[v], xr);
    }
  }
};
#endif

struct Matmul {
  const float* x;
  DType weight_dtype;
  float* out;
  int64_t num_rows, in_features, out_features;
};

template <class W>
void run_groups(const Matmul& m, const typename W::X* x, int64_t x_stride, std::vector<RowGroup>& groups, Cpu& cpu) {
  const int64_t panels = num_panels(m.out_features), words = (m.in_features + W::kPerWord - 1) / W::kPerWord;
  const int64_t panel_words = words * kPanel;
  int64_t row_chunks = 0;
  for (const RowGroup& g : groups) row_chunks += (g.num_rows + kItemRows - 1) / kItemRows;
  // Up to 64 KiB of weights an item, and 8 items a thread where there is that much to do. Even, for groups of two
  // panels.
  const int64_t by_size = std::max<int64_t>(2, 16384 / std::max<int64_t>(panel_words, 1));
  const int64_t by_count = panels * row_chunks / (8 * cpu.num_threads());
  const int64_t chunk = std::max<int64_t>(2, std::max(by_size, std::min<int64_t>(by_count, 8)) / 2 * 2);
  const int64_t panel_chunks = (panels + chunk - 1) / chunk;

  int64_t items = 0;
  for (RowGroup& g : groups) {
    g.first_item = items;
    items += (g.num_rows + kItemRows - 1) / kItemRows * panel_chunks;
  }
  cpu.parallel_for(items, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const RowGroup& g = *(std::upper_bound(groups.begin(), groups.end(), i,
                                             [](int64_t item, const RowGroup& g) { return item < g.first_item; }) -
                            1);
      // Neighbouring items share panels, which are then warm in the caches.
      const int64_t parts = (g.num_rows + kItemRows - 1) / kItemRows, part = (i - g.first_item) % parts;
      const int64_t first_panel = (i - g.first_item) / parts * chunk;
      const int64_t first_row = g.first_row + g.num_rows * part / parts,
                    end_row = g.first_row + g.num_rows * (part + 1) / parts;
      run_item_of<W>({.x = x + first_row * x_stride,
                      .x_stride = x_stride,
                      .rows = end_row - first_row,
                      .weight = reinterpret_cast<const uint32_t*>(g.weight),
                      .panel_words = panel_words,
                      .first_panel = first_panel,
                      .end_panel = std::min(first_panel + chunk, panels),
                      .out = m.out + first_row * m.out_features,
                      .in_features = m.in_features,
                      .out_features = m.out_features});
    }
  });
}

#if OPENMOE_ISA_LEVEL == 3
// x rounded to nearest even in pairs, an odd last k paired with zero.
inline const uint32_t* round_to_pairs(const Matmul& m, int64_t words, Cpu& cpu) {
  auto* pairs = cpu.shared_scratch<uint32_t>(m.num_rows * words);
  cpu.parallel_for(m.num_rows, rows_per_chunk(m.in_features), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const float* x = m.x + r * m.in_features;
      uint32_t* to = pairs + r * words;
      int64_t k = 0;
      for (; k + 32 <= m.in_features; k += 32)
        _mm512_storeu_si512(to + k / 2, (__m512i)_mm512_cvtne2ps_pbh(load(x + k + 16), load(x + k)));
      for (; k < m.in_features; k += 2)
        to[k / 2] = to_bf16(x[k]).bits | uint32_t{k + 1 < m.in_features ? to_bf16(x[k + 1]).bits : uint16_t{0}} << 16;
    }
  });
  return pairs;
}
#endif

// Groups without rows must be left out.
inline void matmul(const Matmul& m, std::vector<RowGroup> groups, Cpu& cpu) {
  if (m.weight_dtype == DType::f32) return run_groups<F32Weights>(m, m.x, m.in_features, groups, cpu);
#if OPENMOE_ISA_LEVEL == 3
  const int64_t words = (m.in_features + 1) / 2;
  run_groups<Bf16PairWeights>(m, round_to_pairs(m, words, cpu), words, groups, cpu);
#else
  run_groups<Bf16Weights>(m, m.x, m.in_features, groups, cpu);
#endif
}

}  // namespace openmoe::OPENMOE_ISA
