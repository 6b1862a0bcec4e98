// The inner loops of support/quant_matmul.h: a few rows of 8-bit activations times 32 columns of a quantised panel
// (support/panel.h).
//
// The dot product of a group is an integer, exact whatever the order and the instruction. The groups of a block, whose
// activations have one scale, are added up in order, a fused multiply-add with the weights' scale each; then their sum,
// times the activations' scale, is added to the output. So any tile gives the same bits.
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
inline constexpr int64_t kGroupWords = kGroup / 4 * kQuadWords;  // of x

// How 32 columns of a group are stored. As many groups of x as a block has share a scale; the weights of a block, about
// 4.5 KiB, wait in L1 while tiles pass by. bytes<P>() are the weights of quad P of a word, in every lane;
// first_sum() is what their zero points take away from a dot product.
struct Int8Group {
  static constexpr int64_t kBlock = 4;
  static constexpr int kQuads = 1;
  static constexpr size_t kBytes = group_bytes(DType::int8);

  template <int P>
  static IntVec bytes(IntVec word) {
    return word;
  }
  static Vec scale(const uint16_t* scales) { return as_float(shift_left<16>(int_load(scales))); }
  static IntVec first_sum(const uint16_t*, int32_t offset) { return int_set1(static_cast<uint32_t>(offset)); }
};

struct Int4Group {
  static constexpr int64_t kBlock = 8;
  static constexpr int kQuads = 2;
  static constexpr size_t kBytes = group_bytes(DType::int4);

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

// A block of k, or what is left of it.
struct QuantTile {
  const uint32_t* x;  // quads (support/simd_int.h)
  int64_t x_stride;
  const float* scale;     // one a row
  const int32_t* offset;  // one a group: the sum of its integers times -128 (int8), or times -1, within 16 bits (int4)
  int64_t scale_stride, offset_stride;  // from row to row
  const std::byte* group;
  int column;
  float* sums;  // rows of 32 columns, added to
  int64_t num_groups;
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

template <int Rows, class Group, class Fetch>
void run_quant_tile(const QuantTile& t, Fetch fetch) {
  const uint32_t* x = t.x;
  const std::byte* group = t.group;
  Vec total[Rows][kQuantVectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) total[r][v] = zero();
  for (int64_t g = 0; g < t.num_groups; ++g, group += Group::kBytes) {
    const auto* scales = reinterpret_cast<const uint16_t*>(group) + t.column;
    const auto* word = reinterpret_cast<const uint32_t*>(group + kPanel * sizeof(uint16_t)) + t.column;
    fetch.one();  // the scales
    QuantSums<Rows> sum;
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v)
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
        sum[r][v] = Group::first_sum(scales + v * kLanes, t.offset[g + r * t.offset_stride]);
    for (int k = 0; k < kGroup; k += 4 * Group::kQuads, word += kPanel, x += Group::kQuads * kQuadWords) {
      fetch.two();
      add_word<Rows, Group>(sum, word, x, t.x_stride);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) {
      const Vec scale = Group::scale(scales + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) total[r][v] = fma(to_float(sum[r][v]), scale, total[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) {
      float* to = t.sums + t.column + r * kPanel + v * kLanes;
      store(to, fma(total[r][v], set1(t.scale[r * t.scale_stride]), load(to)));
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
