// Products of rows with one int8 or int4 panel (support/panel.h). x is rounded to 8-bit integers, with one scale for
// the same 32 neighbours in k that share a scale in the weights: products are sums of integers then, four multiply-adds
// a lane and instruction, and an outlier costs its group precision but not its row.
//
// The portable set widens weights to f32 instead: scale * q has at most 16 bits, so that is exact.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "device/cpu.h"
#include "support/float_matmul.h"
#include "support/panel_items.h"
#include "support/quant_tile.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

// A block of a panel (9 or 5 KiB) stays in L1 while tiles pass by, and the next one is fetched. One or a few rows read
// the whole as a stream, which hardware fetches best alone.
inline constexpr int64_t kBlockGroups = 8;

struct QuantRows {
  uint32_t* x;        // [rows][stride] quads (support/simd_int.h)
  GroupScale* scale;  // [rows][groups]
  int64_t groups, stride;
};

// A group of x as integers in [-127, 127] times a scale. One that holds NaN or infinity gets scale NaN; one too small
// for the scale's reciprocal is zero.
inline GroupScale quantise_group(const float* x, int zero_point, uint32_t* quads) {
  constexpr float kMost = 127;
  Vec most = zero(), poison = zero();  // 0 * x is NaN where x is not finite
  for (int k = 0; k < kGroup; k += kLanes) {
    most = max(abs(load(x + k)), most);
    poison = fma(load(x + k), zero(), poison);
  }
  const float largest = reduce_max(most), inverse = kMost / largest;
  const bool finite = !any_nan(poison), usable = finite && largest > 0 && std::isfinite(inverse);
  const Vec factor = set1(usable ? inverse : 0.0f);
  Vec sum = zero();  // exact: all are integers
  for (int k = 0; k < kGroup; k += kLanes) {
    const Vec rounded = round_even(mul(load(x + k), factor));
    store_quads(quads + k / 4 * kQuadWords, rounded);
    sum = add(sum, rounded);
  }
  return {finite ? largest / kMost : std::numeric_limits<float>::quiet_NaN(),
          -zero_point * static_cast<int32_t>(reduce_add(sum))};
}

inline QuantRows quantise_rows(const Matmul& m, Cpu& cpu) {
  const int64_t groups = num_groups(m.in_features), stride = spread_stride(groups * kGroupWords);
  const int zero_point = m.weight_dtype == DType::int8 ? kInt8Zero : 1;  // int4: of each column, in the tiles
  auto* memory = cpu.shared_scratch<uint32_t>(m.num_rows * (stride + 2 * groups));
  const QuantRows rows{.x = memory,
                       .scale = reinterpret_cast<GroupScale*>(memory + m.num_rows * stride),
                       .groups = groups,
                       .stride = stride};
  cpu.parallel_for(m.num_rows, rows_per_chunk(4 * m.in_features), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const float* x = m.x + r * m.in_features + g * kGroup;
        float padded[kGroup] = {};
        if (const int64_t left = m.in_features - g * kGroup; left < kGroup)
          x = static_cast<const float*>(std::memcpy(padded, x, left * sizeof(float)));
        rows.scale[r * groups + g] = quantise_group(x, zero_point, rows.x + r * stride + g * kGroupWords);
      }
  });
  return rows;
}

// Some rows and the panel to multiply them with.
struct QuantPanel {
  int64_t first_row, num_rows;
  const std::byte* packed;
  const std::byte* next;  // the panel that follows in this thread's stream, or null
};

// Into [num_rows][32] sums.
template <class Group>
void run_quant_panel(const QuantRows& rows, const QuantPanel& p, float* sums) {
  std::fill_n(sums, p.num_rows * kPanel, 0.0f);
  const int64_t tiles = (p.num_rows + kQuantRows - 1) / kQuantRows;
  const bool stream = p.num_rows <= kStreamRows && kQuantVectors * kLanes == kPanel;
  const int64_t block = stream ? rows.groups : kBlockGroups;
  for (int64_t g = 0; g < rows.groups; g += block) {
    const std::byte* group = p.packed + g * Group::kBytes;
    const std::byte* next = g + block < rows.groups ? group + block * Group::kBytes : p.next;
    for (int c = 0; c < kPanel; c += kQuantVectors * kLanes)
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t first = p.num_rows * i / tiles, end = p.num_rows * (i + 1) / tiles, row = p.first_row + first;
        const bool fetches = next && !stream && i == 0 && c == 0;
        run_quant_tile_of<Group>(end - first, {.x = rows.x + row * rows.stride + g * kGroupWords,
                                               .x_stride = rows.stride,
                                               .scale = rows.scale + row * rows.groups + g,
                                               .scale_stride = rows.groups,
                                               .group = group,
                                               .column = c,
                                               .sums = sums + first * kPanel,
                                               .num_groups = std::min(block, rows.groups - g),
                                               .prefetch = fetches ? Prefetch{next, 64} : Prefetch{group, 0}});
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
    for (int place = 0; place < 4; ++place) {
      for (int c = 0; c < kPanel; ++c)
        to[c] = scale[c] * static_cast<float>(static_cast<int32_t>(words[c] >> 8 * place & 255) - kInt8Zero);
      to += kPanel;
    }
}

inline void widen_int4(const uint16_t* scales, const uint32_t* words, float* to) {
  float scale[kPanel];
  int32_t zero_point[kPanel];
  for (int c = 0; c < kPanel; ++c) scale[c] = int4_scale(scales[c]), zero_point[c] = int4_zero(scales[c]);
  for (int w = 0; w < kGroup / 8; ++w, words += kPanel)
    for (const int place : {0, 2, 4, 6, 1, 3, 5, 7}) {
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
                           .next = nullptr,
                           .resume = g > 0});
  }
}

#endif

}  // namespace openmoe::OPENMOE_ISA
