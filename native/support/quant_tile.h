// The inner loops of support/quant_matmul.h: a few rows of 16-bit activations times 32 columns of a quantised panel
// (support/panel.h).
//
// The dot product of a group is an integer, exact whatever the order and the instruction; groups are then added up in
// order, one fused multiply-add with the group's scale each. So any tile gives the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "support/panel.h"
#include "support/panel_tile.h"
#include "support/simd_int.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

// Two sums for each dot product are in registers, beside the weights: 6 x 2 vectors of 16, or 2 x 2 of 8.
inline constexpr int kQuantRows = OPENMOE_ISA_LEVEL >= 2 ? 6 : 2, kQuantVectors = 2;
inline constexpr int64_t kGroupWords = kGroup / 2;  // of x

// How 32 columns of a group are stored. bytes<P>() are the weights of quad P of a word, in every lane.
struct Int8Group {
  static constexpr bool kHasZero = false;  // all columns have the same
  static constexpr int kQuads = 1;
  static constexpr size_t kBytes = group_bytes(DType::int8);

  template <int P>
  static IntVec bytes(IntVec word) {
    return word;
  }
  static Vec scale(const uint16_t* scales) { return as_float(shift_left<16>(int_load(scales))); }
};

struct Int4Group {
  static constexpr bool kHasZero = true;
  static constexpr int kQuads = 2;
  static constexpr size_t kBytes = group_bytes(DType::int4);

  template <int P>
  static IntVec bytes(IntVec word) {
    return bit_and(P == 0 ? word : shift_right16<4>(word), int_set1(0x0f0f0f0f));
  }
  static Vec scale(const uint16_t* scales) {
    return as_float(shift_left<15>(bit_and(int_load(scales), int_set1(0xfff0))));
  }
  static Vec zero_point(const uint16_t* scales) { return to_float(bit_and(int_load(scales), int_set1(15))); }
};

struct QuantTile {
  const uint32_t* x;  // quads (support/simd_int.h)
  int64_t x_stride;
  const int32_t* group_sum;  // [rows][sum_stride] of x, by group
  int64_t sum_stride;
  const std::byte* group;
  int column;
  float* sums;  // rows of 32 columns, added to
  int64_t num_groups;
  Prefetch prefetch;  // for every word
};

template <int Rows>
using QuantSums = IntVec[Rows][kQuantVectors];

template <int Rows, class Group, int P = 0>
inline void add_word_products(QuantSums<Rows>& even, QuantSums<Rows>& odd, const IntVec (&word)[kQuantVectors],
                              const uint32_t* x, int64_t x_stride) {
  IntVec bytes[kQuantVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kQuantVectors; ++v) bytes[v] = Group::template bytes<P>(word[v]);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    const IntVec x0 = int_set1(x[r * x_stride + 2 * P]), x1 = int_set1(x[r * x_stride + 2 * P + 1]);
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) add_quad(even[r][v], odd[r][v], bytes[v], x0, x1);
  }
  if constexpr (P + 1 < Group::kQuads) add_word_products<Rows, Group, P + 1>(even, odd, word, x, x_stride);
}

template <int Rows, class Group>
inline void add_group(const QuantSums<Rows>& even, const QuantSums<Rows>& odd, const uint16_t* scales,
                      const int32_t* group_sum, int64_t sum_stride, float* sums) {
#pragma GCC unroll 4
  for (int v = 0; v < kQuantVectors; ++v) {
    const Vec scale = Group::scale(scales + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      Vec product = to_float(quad_sum(even[r][v], odd[r][v]));
      // All are integers below 2^24: still exact.
      if constexpr (Group::kHasZero)
        product =
            fma(Group::zero_point(scales + v * kLanes), set1(-static_cast<float>(group_sum[r * sum_stride])), product);
      float* to = sums + r * kPanel + v * kLanes;
      store(to, fma(product, scale, load(to)));
    }
  }
}

template <int Rows, class Group>
void run_quant_tile(const QuantTile& t) {
  const uint32_t* x = t.x;
  const std::byte* group = t.group;
  Prefetch prefetch = t.prefetch;
  for (int64_t g = 0; g < t.num_groups; ++g, group += Group::kBytes) {
    QuantSums<Rows> even, odd;
    const int32_t* group_sum = t.group_sum + g;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kQuantVectors; ++v) {
        even[r][v] = int_zero();
        odd[r][v] = Group::kHasZero ? int_zero() : int_set1(-kInt8Zero * group_sum[r * t.sum_stride]);
      }
    prefetch.one();  // the scales
    const auto* scales = reinterpret_cast<const uint16_t*>(group) + t.column;
    const auto* words = reinterpret_cast<const uint32_t*>(group + kPanel * sizeof(uint16_t)) + t.column;
    constexpr int kWords = kGroup / 4 / Group::kQuads;
    for (int i = 0; i < kWords; ++i, words += kPanel, x += 2 * Group::kQuads) {
      IntVec word[kQuantVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kQuantVectors; ++v) word[v] = int_load(words + v * kLanes);
      prefetch.two();
      add_word_products<Rows, Group>(even, odd, word, x, t.x_stride);
    }
    add_group<Rows, Group>(even, odd, scales, group_sum, t.sum_stride, t.sums + t.column);
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
