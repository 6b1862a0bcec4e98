// The inner loops of support/quant_matmul.h: a few rows of 8-bit activations times 32 columns of a quantised panel
// (support/panel.h).
//
// The dot product of a group is an integer, exact whatever the order and the instruction; groups are then added up in
// order, one fused multiply-add with both scales each. So any tile gives the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "support/panel.h"
#include "support/panel_tile.h"
#include "support/simd_int.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

// The dot products of a tile are in registers, beside the weights: 12 x 2 vectors of 16, or 4 x 2 of 8.
inline constexpr int kQuantRows = OPENMOE_ISA_LEVEL >= 2 ? 12 : 4, kQuantVectors = 2;
inline constexpr int64_t kGroupWords = kGroup / 4 * kQuadWords;  // of x

// How 32 columns of a group are stored. bytes<P>() are the weights of quad P of a word, in every lane;
// first_sum() is what their zero points take away from a dot product.
struct Int8Group {
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

// Of a group of a row of x.
struct GroupScale {
  float scale;
  int32_t offset;  // the sum of its integers times -128 (int8), or times -1, within 16 bits (int4)
};

struct QuantTile {
  const uint32_t* x;  // quads (support/simd_int.h)
  int64_t x_stride;
  const GroupScale* scale;  // [rows][scale_stride] by group
  int64_t scale_stride;
  const std::byte* group;
  int column;
  float* sums;  // rows of 32 columns, added to
  int64_t num_groups;
  Prefetch prefetch;  // for every word
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

template <int Rows, class Group>
void run_quant_tile(const QuantTile& t) {
  const uint32_t* x = t.x;
  const std::byte* group = t.group;
  Prefetch prefetch = t.prefetch;
  for (int64_t g = 0; g < t.num_groups; ++g, group += Group::kBytes) {
    const auto* scales = reinterpret_cast<const uint16_t*>(group) + t.column;
    const auto* word = reinterpret_cast<const uint32_t*>(group + kPanel * sizeof(uint16_t)) + t.column;
    const GroupScale* x_scale = t.scale + g;
    prefetch.one();  // the scales
    QuantSums<Rows> sum;
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v)
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
        sum[r][v] = Group::first_sum(scales + v * kLanes, x_scale[r * t.scale_stride].offset);
    for (int k = 0; k < kGroup; k += 4 * Group::kQuads, word += kPanel, x += Group::kQuads * kQuadWords) {
      prefetch.two();
      add_word<Rows, Group>(sum, word, x, t.x_stride);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) {
      const Vec scale = Group::scale(scales + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        float* to = t.sums + t.column + r * kPanel + v * kLanes;
        const Vec both = mul(scale, set1(x_scale[r * t.scale_stride].scale));
        store(to, fma(to_float(sum[r][v]), both, load(to)));
      }
    }
  }
}

template <class Group, int Rows = kQuantRows>
void run_quant_tile_of(int64_t rows, const QuantTile& t) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return run_quant_tile_of<Group, Rows - 1>(rows, t);
  }
  run_quant_tile<Rows, Group>(t);
}

#endif

}  // namespace openmoe::OPENMOE_ISA
