// The inner loops of matmul/quant_matmul.h: a few rows of 8-bit activations times 32 columns of a quantised panel
// (matmul/panel.h).
//
// A sum of products is an integer, exact whatever the order and the instruction, as far as one scale of the weights and
// one of the activations reach. The sums of a block, which share the longer-reaching of the two, are added up in order,
// a fused multiply-add with the other each; then their total, times the shared one, is added to the output. So any tile
// gives the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "matmul/panel.h"
#include "matmul/panel_tile.h"
#include "support/simd_int.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

// How 32 columns of a group are stored, and what is multiplied as integers: kSum neighbours in k, kSums times in a
// block. As many of x as kScaled share a scale.
//
// A word of weights, kPerWord neighbours in k, is taken apart into kOperands vectors, each multiplied with a word of x:
// operand<P>() and add(). A sum begins with first_sum() and ends with last_sum(), and has then lost what the zero
// points of the weights had added to it.
//
// Before VNNI, products of bytes end in 16 bits. There is room for the products of a nibble with four bytes, eight
// times (15 * 127 * 2 * 8 < 2^15), which is a group; but not for those of a byte with a byte, which are made from
// halves.
struct Int8Group {
  static constexpr int64_t kSum = 64, kSums = 2, kScaled = 64, kPerWord = 4;
  static constexpr DType kDType = DType::int8;

#if OPENMOE_ISA_LEVEL >= 3
  static constexpr int kOperands = 1;
  static void store_x(uint32_t* to, Vec v) { store_bytes(to, v); }
  template <int P>
  static IntVec operand(IntVec word) {
    return word;
  }
  static void add(IntVec& sum, IntVec operand, IntVec x) { add_byte_products(sum, operand, x); }
#else
  static constexpr int kOperands = 2;
  static void store_x(uint32_t* to, Vec v) { store_even_odd(to, v); }
  template <int P>
  static IntVec operand(IntVec word) {
    return P == 0 ? bit_and(word, int_set1(0x00ff00ff)) : shift_right16<8>(word);
  }
  static void add(IntVec& sum, IntVec operand, IntVec x) { add_half_products(sum, operand, x); }
#endif
  static Vec scale(const uint16_t* scales) { return as_float(shift_left<16>(int_load(scales))); }
  static IntVec first_sum(const uint16_t*, int32_t offset) { return int_set1(static_cast<uint32_t>(offset)); }
  static Vec last_sum(IntVec sum, const uint16_t*, int32_t) { return to_float(sum); }
};

struct Int4Group {
  static constexpr int64_t kSum = 32, kSums = 8, kScaled = 256, kPerWord = 8;
  static constexpr int kOperands = 2;
  static constexpr DType kDType = DType::int4;

  static void store_x(uint32_t* to, Vec v) { store_bytes(to, v); }
  template <int P>
  static IntVec operand(IntVec word) {
    return bit_and(P == 0 ? word : shift_right16<4>(word), int_set1(0x0f0f0f0f));
  }
  static Vec scale(const uint16_t* scales) {
    return as_float(shift_left<15>(bit_and(int_load(scales), int_set1(0xfff0))));
  }
  static IntVec zero_point(const uint16_t* scales) { return bit_and(int_load(scales), int_set1(15)); }
#if OPENMOE_ISA_LEVEL >= 3
  static void add(IntVec& sum, IntVec operand, IntVec x) { add_byte_products(sum, operand, x); }
  static IntVec first_sum(const uint16_t* scales, int32_t offset) {  // both in the lower half of a lane
    return pair_products(zero_point(scales), int_set1(static_cast<uint32_t>(offset)));
  }
  static Vec last_sum(IntVec sum, const uint16_t*, int32_t) { return to_float(sum); }
#else
  static void add(IntVec& sum, IntVec operand, IntVec x) { add_byte_products16(sum, operand, x); }
  static IntVec first_sum(const uint16_t*, int32_t) { return int_zero(); }
  static Vec last_sum(IntVec sum, const uint16_t* scales, int32_t offset) {  // exact: all are integers below 2^24
    const Vec products = to_float(pair_products(sum, int_set1(0x00010001)));
    return fma(to_float(zero_point(scales)), to_float(int_set1(static_cast<uint32_t>(offset))), products);
  }
#endif
};

// The dot products of a tile, beside their sums so far: 8 x 2 vectors of 16, or 2 x 4 of 8.
inline constexpr int kQuantRows = OPENMOE_ISA_LEVEL >= 2 ? 8 : 2, kPanelVectors = kPanel / kLanes;

template <class Group>
inline constexpr int64_t kBlockLength = Group::kSum * Group::kSums;  // of k

// Whole blocks of k; the last may be shorter.
struct QuantTile {
  const uint32_t* x;  // what operands are multiplied with
  int64_t x_stride;
  const float* scale;
  const int32_t* offset;  // one a sum: that of its integers times -128 (int8), or times -1, within 16 bits (int4)
  int64_t scale_stride, offset_stride;  // from row to row
  const std::byte* group;
  float* sums;  // rows of 32 columns, added to
  int64_t num_sums;
};

// One operand of a word in all columns, then the next: few registers.
template <class Group, int P = 0, int Rows>
inline void add_word(IntVec (&sum)[Rows][kPanelVectors], const uint32_t* word, const uint32_t* x, int64_t x_stride) {
  IntVec weights[kPanelVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kPanelVectors; ++v) weights[v] = Group::template operand<P>(int_load(word + v * kLanes));
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    const IntVec xr = int_set1(x[r * x_stride + P]);
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) Group::add(sum[r][v], weights[v], xr);
  }
  if constexpr (P + 1 < Group::kOperands) add_word<Group, P + 1>(sum, word, x, x_stride);
}

// What comes between two blocks waits for the last products and holds up the next: it is kept short, and the tile is
// copied, so that no store makes the compiler read it again. Where this is inlined, GCC 12 may keep sums in memory.
template <class Group, int Rows, class Fetch>
[[gnu::noinline]] void run_quant_tile(const QuantTile tile, Fetch fetch) {
  constexpr int64_t kLength = group_length(Group::kDType), kSumsPerGroup = kLength / Group::kSum;
  constexpr bool kBlockSharesWeightScale = kLength == kBlockLength<Group>;
  const uint32_t* x = tile.x;
  const std::byte* group = tile.group;
  const float* scale = tile.scale;
  const int32_t* offset = tile.offset;
  for (int64_t left = tile.num_sums; left > 0; left -= Group::kSums) {
    Vec total[Rows][kPanelVectors];
    const uint16_t* scales = nullptr;
    const uint32_t* word = nullptr;
    for (int64_t i = 0; i < Group::kSums && i < left; ++i, ++offset) {
      if (i % kSumsPerGroup == 0) {
        scales = reinterpret_cast<const uint16_t*>(group);
        word = reinterpret_cast<const uint32_t*>(group + kPanel * sizeof(uint16_t));
        group += group_bytes(Group::kDType);
        fetch.one();  // the scales
      }
      IntVec sum[Rows][kPanelVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v)
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
          sum[r][v] = Group::first_sum(scales + v * kLanes, offset[r * tile.offset_stride]);
      for (int64_t k = 0; k < Group::kSum; k += Group::kPerWord, word += kPanel, x += Group::kOperands) {
        fetch.two();
        add_word<Group>(sum, word, x, tile.x_stride);
      }
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) {
        const Vec weight_scale = Group::scale(scales + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          const Vec own = kBlockSharesWeightScale ? set1(scale[r * tile.scale_stride]) : weight_scale;
          const Vec products = Group::last_sum(sum[r][v], scales + v * kLanes, offset[r * tile.offset_stride]);
          total[r][v] = i == 0 ? mul(products, own) : fma(products, own, total[r][v]);
        }
      }
      if (kBlockSharesWeightScale) ++scale;
    }
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) {
      const Vec weight_scale = Group::scale(scales + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec shared = kBlockSharesWeightScale ? weight_scale : set1(scale[r * tile.scale_stride]);
        float* to = tile.sums + r * kPanel + v * kLanes;
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
  run_quant_tile<Group, Rows>(t, fetch);
}

#endif

}  // namespace openmoe::OPENMOE_ISA
