// The inner loops of support/quant_matmul.h: a few rows of 16-bit activations times the 32 columns of a quantised panel
// (support/panel.h), or of a block of one that was widened to 16 bits beforehand.
//
// The dot product of a group is an integer, exact whatever the order and the instruction; groups are then added up in
// order, one fused multiply-add with the group's scale each. So a packed and a widened panel, and any tile, give the
// same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "support/panel.h"
#include "support/panel_tile.h"
#include "support/simd_int.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

inline constexpr int kQuantVectors = kPanel / kLanes;
inline constexpr int kGroupPairs = kGroup / 2;
// A tile's dot products and their sums are in registers together.
inline constexpr int kQuantRows = OPENMOE_ISA_LEVEL >= 2 ? 8 : 2;

// Each of the types below says how 32 columns of a group are stored. pairs<P>() are the two 16-bit weights of pair P of
// a word, in every lane; scale() and zero_point() belong to a column.
struct Int8Group {
  static constexpr DType kDType = DType::int8;
  static constexpr bool kHasZero = false;
  static constexpr int kPairs = 2;
  static constexpr size_t kBytes = group_bytes(DType::int8), kScaleBytes = kPanel * sizeof(uint16_t);

  template <int P>
  static IntVec pairs(IntVec word) {
    return P == 0 ? shift_right16_signed<8>(shift_left16<8>(word)) : shift_right16_signed<8>(word);
  }
  static Vec scale(const std::byte* scales, int column) {
    return as_float(shift_left<16>(int_load(reinterpret_cast<const uint16_t*>(scales) + column)));
  }
  static Vec zero_point(const std::byte*, int) { return zero(); }
};

struct Int4Group {
  static constexpr DType kDType = DType::int4;
  static constexpr bool kHasZero = true;
  static constexpr int kPairs = 4;
  static constexpr size_t kBytes = group_bytes(DType::int4), kScaleBytes = kPanel * sizeof(uint16_t);

  template <int P>
  static IntVec pairs(IntVec word) {
    if constexpr (P == 3) return shift_right16<12>(word);
    const IntVec low = P == 0 ? word : shift_right16<P == 0 ? 1 : 4 * P>(word);
    return bit_and(low, int_set1(0x000f000f));
  }
  static Vec scale(const std::byte* scales, int column) {
    const IntVec bits = int_load(reinterpret_cast<const uint16_t*>(scales) + column);
    return as_float(shift_left<15>(bit_and(bits, int_set1(0xfff0))));
  }
  static Vec zero_point(const std::byte* scales, int column) {
    return to_float(bit_and(int_load(reinterpret_cast<const uint16_t*>(scales) + column), int_set1(15)));
  }
};

// Widened: f32 scales, then the pairs themselves, less the zero point.
struct WideGroup {
  static constexpr bool kHasZero = false;
  static constexpr int kPairs = 1;
  static constexpr size_t kScaleBytes = kPanel * sizeof(float);
  static constexpr size_t kBytes = kScaleBytes + kGroupPairs * kPanel * sizeof(uint32_t);

  template <int P>
  static IntVec pairs(IntVec word) {
    return word;
  }
  static Vec scale(const std::byte* scales, int column) {
    return load(reinterpret_cast<const float*>(scales) + column);
  }
  static Vec zero_point(const std::byte*, int) { return zero(); }
};

// Rows of x, rounded to 16 bits: pairs of neighbours in k, and what becomes of their dot products.
struct QuantTile {
  const uint32_t* x;
  int64_t x_stride;        // words
  const float* group_sum;  // [rows][sum_stride] of x, by group
  int64_t sum_stride;
  const std::byte* group;
  float* sums;  // rows of 32 columns
  int64_t num_groups;
  const std::byte* prefetch;  // `prefetch_step` bytes from here on for every word
  int64_t prefetch_step;
  bool resume;         // the chains go on from `sums`
  const float* scale;  // of x, by row: null but after the last group
};

template <int Rows, class Group, int P = 0>
inline void add_word_products(IntVec (&sum)[Rows][kQuantVectors], const IntVec (&word)[kQuantVectors],
                              const uint32_t* x, int64_t x_stride) {
  IntVec w[kQuantVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kQuantVectors; ++v) w[v] = Group::template pairs<P>(word[v]);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    const IntVec xr = int_set1(x[r * x_stride + P]);
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) sum[r][v] = add_pair_products(sum[r][v], w[v], xr);
  }
  if constexpr (P + 1 < Group::kPairs) add_word_products<Rows, Group, P + 1>(sum, word, x, x_stride);
}

template <int Rows, class Group>
void run_quant_tile(const QuantTile& t) {
  Vec total[Rows][kQuantVectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) total[r][v] = t.resume ? load(t.sums + r * kPanel + v * kLanes) : zero();
  const uint32_t* x = t.x;
  const std::byte *group = t.group, *prefetch = t.prefetch;
  for (int64_t g = 0; g < t.num_groups; ++g, group += Group::kBytes) {
    IntVec dot[Rows][kQuantVectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kQuantVectors; ++v) dot[r][v] = int_zero();
    const auto* words = reinterpret_cast<const uint32_t*>(group + Group::kScaleBytes);
    for (int i = 0; i < kGroupPairs / Group::kPairs; ++i, words += kPanel, x += Group::kPairs) {
      IntVec word[kQuantVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kQuantVectors; ++v) word[v] = int_load(words + v * kLanes);
      __builtin_prefetch(prefetch);
      __builtin_prefetch(prefetch + t.prefetch_step / 2);
      prefetch += t.prefetch_step;
      add_word_products<Rows, Group>(dot, word, x, t.x_stride);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) {
      const Vec scale = Group::scale(group, v * kLanes), zero_point = Group::zero_point(group, v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        Vec product = to_float(dot[r][v]);
        // Both are integers below 2^24, and so is their difference: still exact.
        if constexpr (Group::kHasZero) product = fma(zero_point, set1(-t.group_sum[r * t.sum_stride + g]), product);
        total[r][v] = fma(product, scale, total[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kQuantVectors; ++v) {
      if (t.scale) total[r][v] = mul(total[r][v], set1(t.scale[r]));
      store(t.sums + r * kPanel + v * kLanes, total[r][v]);
    }
}

template <class Group, int Rows = kQuantRows>
void run_quant_tile_of(int64_t rows, const QuantTile& t) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return run_quant_tile_of<Group, Rows - 1>(rows, t);
  }
  run_quant_tile<Rows, Group>(t);
}

template <class Group, int P = 0>
inline void widen_word(IntVec word, IntVec zero_point, uint32_t* to) {
  IntVec w = Group::template pairs<P>(word);
  if constexpr (Group::kHasZero) w = sub16(w, zero_point);
  int_store(to + P * kPanel, w);
  if constexpr (P + 1 < Group::kPairs) widen_word<Group, P + 1>(word, zero_point, to);
}

// Groups of a packed panel as WideGroups.
template <class Group>
void widen_groups(const std::byte* from, int64_t num_groups, std::byte* to) {
  for (int64_t g = 0; g < num_groups; ++g, from += Group::kBytes, to += WideGroup::kBytes) {
    const auto* words = reinterpret_cast<const uint32_t*>(from + Group::kScaleBytes);
    auto* pairs = reinterpret_cast<uint32_t*>(to + WideGroup::kScaleBytes);
    for (int c = 0; c < kPanel; c += kLanes) {
      store(reinterpret_cast<float*>(to) + c, Group::scale(from, c));
      IntVec zero_point = int_zero();
      if constexpr (Group::kHasZero) {
        const IntVec z = bit_and(int_load(reinterpret_cast<const uint16_t*>(from) + c), int_set1(15));
        zero_point = bit_or(z, shift_left<16>(z));
      }
      for (int i = 0; i < kGroupPairs / Group::kPairs; ++i)
        widen_word<Group>(int_load(words + i * kPanel + c), zero_point, pairs + i * Group::kPairs * kPanel + c);
    }
  }
}

#endif

}  // namespace openmoe::OPENMOE_ISA
