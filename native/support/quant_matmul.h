// Products of rows with one int8 or int4 panel (support/panel.h). x is rounded to 16-bit integers with one scale a row:
// its error is below that of bf16 whatever the row (at most in_features / (12 * 32767^2) of its power), and products
// with weights of 4 or 8 bits are sums of integers, two multiply-adds a lane and instruction.
//
// The portable set widens weights to f32 instead: scale * q has at most 16 bits, so that is exact too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "device/cpu.h"
#include "support/float_matmul.h"
#include "support/panel_items.h"
#include "support/quant_tile.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

// A block of a panel, widened (17 KiB), stays in L1 while the rows of an item pass by.
inline constexpr int64_t kBlockGroups = 8;

struct QuantRows {
  int16_t* x;        // [rows][stride]
  float* group_sum;  // [rows][groups]
  float* scale;      // [rows]
  int64_t groups, stride;
};

// A row of x as integers in [-32767, 32767] times a scale. Rows that hold NaN or infinity get scale NaN; rows too small
// for the scale's reciprocal are zero.
inline void quantise_row(const float* x, int64_t in_features, const QuantRows& to, int64_t row) {
  constexpr float kMost = 32767;
  Vec most = zero();
  Vec poison = zero();  // 0 * x is NaN where x is not finite
  for_vectors(in_features, [&](int64_t k, auto lanes) {
    const Vec v = load(x + k, lanes);
    most = max(abs(v), most);
    poison = fma(v, zero(), poison);
  });
  const float largest = reduce_max(most), inverse = kMost / largest;
  const bool usable = largest > 0 && std::isfinite(inverse);
  to.scale[row] = largest / kMost + reduce_add(poison);
  int16_t* q = to.x + row * to.stride;
  const Vec factor = set1(usable && !std::isnan(to.scale[row]) ? inverse : 0.0f);
  std::fill(q + in_features / kGroup * kGroup, q + to.groups * kGroup, int16_t{0});
  for_vectors(in_features, [&](int64_t k, auto lanes) {
    const Vec v = mul(load(x + k, lanes), factor);
    if constexpr (std::is_same_v<decltype(lanes), Tail>) {
      int16_t whole[kLanes];
      store_int16(whole, v);
      std::copy_n(whole, lanes.n, q + k);
    } else {
      store_int16(q + k, v);
    }
  });
  for (int64_t g = 0; g < to.groups; ++g) {
    int32_t sum = 0;
    for (int i = 0; i < kGroup; ++i) sum += q[g * kGroup + i];
    to.group_sum[row * to.groups + g] = static_cast<float>(sum);
  }
}

inline QuantRows quantise_rows(const Matmul& m, Cpu& cpu) {
  const int64_t groups = num_groups(m.in_features);
  const int64_t words = spread_stride(groups * kGroup / 2);
  auto* memory = cpu.shared_scratch<float>(m.num_rows * (words + groups + 1));
  const QuantRows rows{.x = reinterpret_cast<int16_t*>(memory),
                       .group_sum = memory + m.num_rows * words,
                       .scale = memory + m.num_rows * (words + groups),
                       .groups = groups,
                       .stride = 2 * words};
  cpu.parallel_for(m.num_rows, rows_per_chunk(m.in_features), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) quantise_row(m.x + r * m.in_features, m.in_features, rows, r);
  });
  return rows;
}

// Rows [first_row, first_row + num_rows) times one panel, into [num_rows][32] sums.
template <class Group>
void run_quant_panel(const QuantRows& rows, int64_t first_row, int64_t num_rows, const std::byte* panel, float* sums) {
  const auto tile = [&](int64_t first, int64_t group, int64_t num_groups) {
    const int64_t row = first_row + first;
    return QuantTile{.x = reinterpret_cast<const uint32_t*>(rows.x + row * rows.stride) + group * kGroupPairs,
                     .x_stride = rows.stride / 2,
                     .group_sum = rows.group_sum + row * rows.groups + group,
                     .sum_stride = rows.groups,
                     .group = panel + group * Group::kBytes,
                     .sums = sums + first * kPanel,
                     .num_groups = num_groups,
                     .prefetch = panel + group * Group::kBytes,
                     .prefetch_step = 0,
                     .resume = group > 0,
                     .scale = group + num_groups == rows.groups ? rows.scale + row : nullptr};
  };
  if (num_rows <= kQuantRows) {
    QuantTile t = tile(0, 0, rows.groups);
    t.prefetch += kPrefetchBytes, t.prefetch_step = Group::kBytes * Group::kPairs / kGroupPairs;
    return run_quant_tile_of<Group>(num_rows, t);
  }
  const int64_t tiles = (num_rows + kQuantRows - 1) / kQuantRows;
  for (int64_t g = 0; g < rows.groups; g += kBlockGroups) {
    const int64_t num_groups = std::min(kBlockGroups, rows.groups - g);
    alignas(64) std::byte wide[kBlockGroups * WideGroup::kBytes];
    widen_groups<Group>(panel + g * Group::kBytes, num_groups, wide);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t first = num_rows * i / tiles, end = num_rows * (i + 1) / tiles;
      QuantTile t = tile(first, g, num_groups);
      t.group = wide;
      if (i == 0)  // fetches the next block, or the next panel's first
        t.prefetch += num_groups * Group::kBytes, t.prefetch_step = Group::kBytes / kGroupPairs;
      run_quant_tile_of<WideGroup>(end - first, t);
    }
  }
}

#else

inline constexpr int64_t kBlockGroups = 4;  // of one panel in f32: 16 KiB

// One group of a panel as an f32 panel of 32 k. The innermost loops are over columns: compilers make vectors of that.
inline void widen_int8(const uint16_t* scales, const uint32_t* words, float* to) {
  float scale[kPanel];
  for (int c = 0; c < kPanel; ++c) scale[c] = int8_scale(scales[c]);
  for (int w = 0; w < kGroup / 4; ++w, words += kPanel)
    for (const int place : {0, 2, 1, 3}) {
      for (int c = 0; c < kPanel; ++c)
        to[c] = scale[c] * static_cast<float>(static_cast<int32_t>(words[c] << (24 - 8 * place)) >> 24);
      to += kPanel;
    }
}

inline void widen_int4(const uint16_t* scales, const uint32_t* words, float* to) {
  float scale[kPanel];
  int32_t zero_point[kPanel];
  for (int c = 0; c < kPanel; ++c) scale[c] = int4_scale(scales[c]), zero_point[c] = int4_zero(scales[c]);
  for (int w = 0; w < kGroup / 8; ++w, words += kPanel)
    for (const int place : {0, 4, 1, 5, 2, 6, 3, 7}) {
      for (int c = 0; c < kPanel; ++c)
        to[c] = scale[c] * static_cast<float>(static_cast<int32_t>(words[c] >> 4 * place & 15) - zero_point[c]);
      to += kPanel;
    }
}

// Rows of x times one panel, into [num_rows][32] sums.
inline void run_wide_panel(const Matmul& m, int64_t first_row, int64_t num_rows, const std::byte* panel, float* sums) {
  const int64_t groups = num_groups(m.in_features);
  const size_t size = group_bytes(m.weight_dtype);
  for (int64_t g = 0; g < groups; g += kBlockGroups) {
    alignas(64) float wide[kBlockGroups * kGroup * kPanel];
    for (int64_t i = 0; i < std::min(kBlockGroups, groups - g); ++i) {
      const auto* scales = reinterpret_cast<const uint16_t*>(panel + (g + i) * size);
      const auto* words = reinterpret_cast<const uint32_t*>(scales + kPanel);
      float* to = wide + i * kGroup * kPanel;
      m.weight_dtype == DType::int8 ? widen_int8(scales, words, to) : widen_int4(scales, words, to);
    }
    const int64_t k = g * kGroup;
    run_tiles<F32Weights>({.x = m.x + first_row * m.in_features + k,
                           .x_stride = m.in_features,
                           .rows = num_rows,
                           .word = reinterpret_cast<const uint32_t*>(wide),
                           .num_k = std::min(kBlockGroups * kGroup, m.in_features - k),
                           .sums = sums,
                           .resume = g > 0,
                           .prefetch = false});
  }
}

#endif

}  // namespace openmoe::OPENMOE_ISA
