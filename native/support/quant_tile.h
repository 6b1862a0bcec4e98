// The inner loops of support/quant_matmul.h: a few rows of 8-bit activations times 32 columns of a quantised panel
// (support/panel.h).
//
// A sum of products is an integer, exact whatever the order and the instruction, as far as one scale of the weights and
// one of the activations reach. The sums of a block, which share the longer-reaching of the two, are added up in order,
// a fused multiply-add with the other each; then their total, times the shared one, is added to the output. So any tile
// gives the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "support/panel.h"
#include "support/panel_tile.h"
#include "support/simd_int.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

// The dot products of a tile, beside their sums so far: 8 x 2 vectors of 16, or 4 x 2 of 8.
inline constexpr int kQuantRows = OPENMOE_ISA_LEVEL >= 2 ? 8 : 4, kQuantVectors = 2;

// How 32 columns of a group are stored, and what is multiplied as integers: kSum neighbours in k, kSums times in a
// block. As many of x as kScaled share a scale. The weights of a block, about 4.5 KiB, wait in L1 while tiles pass by.
// bytes<P>() are the weights of quad P of a word, in every lane; first_sum() is what their zero points take away.
struct Int8Group {
  static constexpr int64_t kSum = 64, kSums = 2, kScaled = 64;
  static constexpr int kQuads = 1;
  static constexpr DType kDType = DType::int8;

  template <int P>
  static IntVec bytes(IntVec word) {
    return word;
  }
  static Vec scale(const uint16_t* scales) { return as_float(shift_left<16>(int_load(scales))); }
  static IntVec first_sum(const uint16_t*, int32_t offset) { return int_set1(static_cast<uint32_t>(offset)); }
};

struct Int4Group {
  static constexpr int64_t kSum = 32, kSums = 8, kScaled = 256;
  static constexpr int kQuads = 2;
  static constexpr DType kDType = DType::int4;

  template <int P>
  static IntVec bytes(IntVec word) {
    return bit_and(P == 0 ? word : shift_right16<4>(word), int_set1(0x0f0f0f0f));
  }
  static Vec scale(const uint16_t* scales) {
    return as_float(shift_left<15>(bit_and(int_load(scales), int_set1(0xfff0))));
  }
  static IntVec first_sum(const uint16_t* scales, int32_t offset) {  // both in the lower half of a lane
    return pair_products(bit_and(int_load(scales), int_set1(15)), int_set1(static_cast<uint32_t>(offset)));
  }
};

template <class Group>
inline constexpr int64_t kBlockLength = Group::kSum * Group::kSums;  // of k

// Whole blocks of k; the last may be shorter.
struct QuantTile {
  const uint32_t* x;  // quads (support/simd_int.h)
  int64_t x_stride;
  const float* scale;
  const int32_t* offset;  // one a sum: that of its integers times -128 (int8), or times -1, within 16 bits (int4)
  int64_t scale_stride, offset_stride;  // from row to row
  const std::byte* group;
  int column;
  float* sums;  // rows of 32 columns, added to
  int64_t num_sums;
};

template <int Rows>
using QuantSums = IntVec[Rows][kQuantVectors];

template <int Rows, class Group, int P = 0>
inline void add_word(QuantSums<Rows>& sum, const uint32_t* word, const uint32_t* x, int64_t x_stride) {
  IntVec bytes[kQuantVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kQuantVectors; ++v) bytes[v] = Group::template bytes<P>(int_load(word + v * kLanes));
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) add_quad(sum[r][v], bytes[v], x + r * x_stride);
  if constexpr (P + 1 < Group::kQuads) add_word<Rows, Group, P + 1>(sum, word, x + kQuadWords, x_stride);
}

// What comes between two blocks waits for the last products and holds up the next: it is kept short, and the tile is
// copied, so that no store makes the compiler read it again. Where this is inlined, GCC 12 may keep sums in memory.
template <int Rows, class Group, class Fetch>
[[gnu::noinline]] void run_quant_tile(const QuantTile tile, Fetch fetch) {
  constexpr int64_t kLength = group_length(Group::kDType), kSumsPerGroup = kLength / Group::kSum;
  constexpr bool kBlockSharesWeightScale = kLength == kBlockLength<Group>;
  const uint32_t* x = tile.x;
  const std::byte* group = tile.group;
  const float* scale = tile.scale;
  const int32_t* offset = tile.offset;
  for (int64_t left = tile.num_sums; left > 0; left -= Group::kSums) {
    Vec total[Rows][kQuantVectors];
    const uint16_t* scales = nullptr;
    const uint32_t* word = nullptr;
    for (int64_t i = 0; i < Group::kSums && i < left; ++i, ++offset) {
      if (i % kSumsPerGroup == 0) {
        scales = reinterpret_cast<const uint16_t*>(group) + tile.column;
        word = reinterpret_cast<const uint32_t*>(group + kPanel * sizeof(uint16_t)) + tile.column;
        group += group_bytes(Group::kDType);
        fetch.one();  // the scales
      }
      QuantSums<Rows> sum;
#pragma GCC unroll 4
      for (int v = 0; v < kQuantVectors; ++v)
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
          sum[r][v] = Group::first_sum(scales + v * kLanes, offset[r * tile.offset_stride]);
      for (int64_t k = 0; k < Group::kSum; k += 4 * Group::kQuads, word += kPanel, x += Group::kQuads * kQuadWords) {
        fetch.two();
        add_word<Rows, Group>(sum, word, x, tile.x_stride);
      }
#pragma GCC unroll 4
      for (int v = 0; v < kQuantVectors; ++v) {
        const Vec weight_scale = Group::scale(scales + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          const Vec own = kBlockSharesWeightScale ? set1(scale[r * tile.scale_stride]) : weight_scale;
          total[r][v] = i == 0 ? mul(to_float(sum[r][v]), own) : fma(to_float(sum[r][v]), own, total[r][v]);
        }
      }
      if (kBlockSharesWeightScale) ++scale;
    }
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) {
      const Vec weight_scale = Group::scale(scales + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec shared = kBlockSharesWeightScale ? weight_scale : set1(scale[r * tile.scale_stride]);
        float* to = tile.sums + tile.column + r * kPanel + v * kLanes;
        store(to, fma(total[r][v], shared, load(to)));
      }
    }
    if (!kBlockSharesWeightScale) ++scale;
  }
}

template <class Group, int Rows = kQuantRows, class Fetch = NoPrefetch>
void run_quant_tile_of(int64_t rows, const QuantTile& t, Fetch fetch = {}) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return run_quant_tile_of<Group, Rows - 1>(rows, t, fetch);
  }
  run_quant_tile<Rows, Group>(t, fetch);
}

#endif

}  // namespace openmoe::OPENMOE_ISA
