// Products of rows with one f32 or bf16 panel (matmul/panel.h). Each output is one chain of multiply-adds over k in
// order; tiles, blocks (between two blocks of k a sum rests in memory, exactly) and threads choose which chains run
// side by side, never their order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/cpu.h"
#include "matmul/panel.h"
#include "matmul/panel_items.h"
#include "matmul/panel_tile.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// Up to kStreamRows pass a panel once, as a stream. A few of them do not hold it up, and hardware fetches it best
// alone; with more, arithmetic takes its time and weights are asked for ahead. More rows yet are several tiles: they
// work on blocks of k, 64 KiB, which wait in L2, or 16 KiB in L1 where tiles are small and come back often, and
// meanwhile the next block is fetched.
inline constexpr int64_t kStreamRows = OPENMOE_ISA_LEVEL >= 2 ? kTileRows : 4, kFewRowsToStream = 6;
inline constexpr int64_t kBlockWords = OPENMOE_ISA_LEVEL >= 2 ? 512 : 128;
// Widening bf16 inside the largest tile needs more than 16 registers. There, tiles of two rows widen as they go, up to
// kDirectRows; with more rows a block is widened once for all of them, to 16 KiB in L1. Widening takes enough of the
// room for instructions in flight that even one row leaves memory idle, unless it asks ahead.
inline constexpr bool kWidenBlocks = OPENMOE_ISA_LEVEL < 2;
inline constexpr bool kWholePanel = kTileVectors * kLanes == kPanel;  // is the width of a tile
inline constexpr int kDirectTileRows = 2;
inline constexpr int64_t kDirectRows = OPENMOE_ISA_LEVEL == 1 ? 12 : 3, kDirectWords = 128, kWideK = 128;

// Rows of x times one panel, or its next `num_k`.
template <class X>
struct PanelRows {
  const X* x;
  int64_t x_stride, rows;
  const uint32_t* word;
  int64_t num_k;
  float* sums;                      // [rows][32]
  std::span<const std::byte> next;  // what to fetch meanwhile; may be empty
  bool resume = false;              // the chains go on from `sums`
};

template <class W, int TileRows = kTileRows>
void run_tiles(const PanelRows<typename W::X>& m) {
  const int64_t tiles = (m.rows + TileRows - 1) / TileRows, tile_rows = m.rows / tiles, longer = m.rows % tiles;
  const int64_t words = (m.num_k + W::kPerWord - 1) / W::kPerWord;
  for (int c = 0; c < kPanel; c += kTileVectors * kLanes) {
    Tile<typename W::X> t{
        .x = m.x, .x_stride = m.x_stride, .word = m.word + c, .sums = m.sums + c, .num_k = m.num_k, .resume = m.resume};
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t rows = tile_rows + (i < longer);
      if (!m.next.empty() && c == 0 && i < kFetchingTiles)
        run_tile_of<W>(rows, t, fetch_part(m.next, i, tiles, words * kWordBytes));
      else
        run_tile_of<W>(rows, t);
      t.x += rows * m.x_stride, t.sums += rows * kPanel;
    }
  }
}

// One tile, as wide as a panel.
template <class W, int TileRows = kTileRows>
void run_ahead(const PanelRows<typename W::X>& m) {
  run_tile_of<W, TileRows>(
      m.rows, {.x = m.x, .x_stride = m.x_stride, .word = m.word, .sums = m.sums, .num_k = m.num_k, .resume = false},
      PrefetchAhead{reinterpret_cast<const std::byte*>(m.word)});
}

template <class W>
void run_stream(PanelRows<typename W::X> m) {
  m.next = {};
  m.rows <= kFewRowsToStream || !kWholePanel ? run_tiles<W>(m) : run_ahead<W>(m);
}

// What a row or two of bf16 wait for before AVX-512 is that one stream of a core is slow, and what is widened fills the
// queues meanwhile. So they pass neighbouring panels side by side, a few lines of each in turn, and ask for the next
// turn's.
inline constexpr int64_t kPanelsInTurn = OPENMOE_ISA_LEVEL == 1 ? 3 : 1, kTurnWords = 2;

// Into [panels][rows][32] sums.
template <class W, int Rows = kDirectTileRows>
void run_in_turn(const PanelRows<typename W::X>& m, int64_t panels) {
  if constexpr (Rows > 1) {
    if (m.rows < Rows) return run_in_turn<W, Rows - 1>(m, panels);
  }
  const int64_t panel_words = (m.num_k + W::kPerWord - 1) / W::kPerWord * kPanel, turn = kTurnWords * W::kPerWord;
  for (int64_t k = 0; k < m.num_k; k += turn)
    for (int64_t i = 0; i < panels; ++i) {
      const uint32_t* word = m.word + i * panel_words + k / W::kPerWord * kPanel;
      const Tile<typename W::X> tile{.x = m.x + k / W::kPerWord * W::kXPerWord,
                                     .x_stride = m.x_stride,
                                     .word = word,
                                     .sums = m.sums + i * Rows * kPanel,
                                     .num_k = std::min(turn, m.num_k - k),
                                     .resume = k > 0};
      run_tile<Rows, W>(tile, PrefetchNear{reinterpret_cast<const std::byte*>(word + kTurnWords * kPanel)});
    }
}

inline void widen_words(const uint32_t* from, int64_t words, float* to) {
  for (int64_t i = 0; i < words; ++i, from += kPanel, to += 2 * kPanel)
    for (int c = 0; c < kPanel; c += kLanes) {
      Vec even, odd;
      load_pairs(reinterpret_cast<const bf16*>(from + c), even, odd);
      store(to + c, even);
      store(to + kPanel + c, odd);
    }
}

// `follows` is the panel with which this thread's stream goes on; may be null.
template <class W>
void run_panel(PanelRows<typename W::X> m, const std::byte* follows) {
  constexpr bool kWiden = kWidenBlocks && std::is_same_v<W, Bf16Weights>;
  if (m.rows <= kStreamRows && !kWiden) return run_stream<W>(m);
  if (kWiden && kWholePanel && m.rows <= kDirectTileRows) return run_ahead<W, kDirectTileRows>(m);
  const bool wide = kWiden && m.rows > kDirectRows;
  const int64_t words = kWiden ? kDirectWords : kBlockWords;
  const int64_t end = m.num_k, block = wide ? kWideK : words * W::kPerWord;
  for (int64_t k = 0; k == 0 || k < end; k += block) {
    const uint32_t* next_word = m.word + block / W::kPerWord * kPanel;
    m.num_k = std::min(block, end - k), m.resume = k > 0;
    const auto* next = k + block < end ? reinterpret_cast<const std::byte*>(next_word) : follows;
    const int64_t bytes = (m.num_k + W::kPerWord - 1) / W::kPerWord * kWordBytes;
    m.next = {next, next ? static_cast<size_t>(bytes) : 0};
    if constexpr (kWiden) {
      if (wide) {
        alignas(64) float widened[kWideK * kPanel];
        widen_words(m.word, (m.num_k + 1) / 2, widened);
        PanelRows<float> w = m;
        w.word = reinterpret_cast<const uint32_t*>(widened);
        run_tiles<F32Weights>(w);
      } else {
        run_tiles<W, kDirectTileRows>(m);
      }
    } else {
      run_tiles<W>(m);
    }
    m.x += block / W::kPerWord * W::kXPerWord, m.word = next_word;
  }
}

#if OPENMOE_ISA_LEVEL == 3
// Two neighbours in k of a row of x, rounded to bf16: the other operand of a pair dot product.
struct Bf16PairWeights {
  using X = uint32_t;
  static constexpr int kPerWord = 2, kXPerWord = 1;

  template <int Rows>
  static void add_word(Vec (&sum)[Rows][kTileVectors], const uint32_t* x, int64_t x_stride, const uint32_t* word) {
    __m512i w[kTileVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kTileVectors; ++v) w[v] = _mm512_loadu_si512(word + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const __m512i xr = _mm512_set1_epi32(static_cast<int>(x[r * x_stride]));
      // Not the intrinsic: GCC 12 copies its sum to another register each time.
#pragma GCC unroll 16
      for (int v = 0; v < kTileVectors; ++v) asm("vdpbf16ps %2, %1, %0" : "+v"(sum[r][v]) : "v"(w[v]), "v"(xr));
    }
  }
};

// x rounded to nearest even in pairs, an odd last k paired with zero.
inline void round_to_pairs(const float* x, int64_t length, uint32_t* to) {
  int64_t k = 0;
  for (; k + 32 <= length; k += 32)
    _mm512_storeu_si512(to + k / 2, (__m512i)_mm512_cvtne2ps_pbh(load(x + k + 16), load(x + k)));
  for (; k < length; k += 2)
    to[k / 2] = to_bf16(x[k]).bits | uint32_t{k + 1 < length ? to_bf16(x[k + 1]).bits : uint16_t{0}} << 16;
}
#endif

}  // namespace openmoe::OPENMOE_ISA
