// Products of rows with one int8 or int4 panel (support/panel.h). x is rounded to 8-bit integers, with one scale for a
// block of neighbours in k, 128 beside int8 and 256 beside int4: products are sums of integers then, four multiply-adds
// a lane and instruction, and an outlier costs its block precision but not its row.
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

struct QuantRows {
  uint32_t* x;      // [rows][stride] quads (support/simd_int.h)
  float* scale;     // [rows][blocks]
  int32_t* offset;  // [rows][groups]; see QuantTile
  int64_t groups, blocks, block_groups, stride;
};

// What makes the numbers of a block integers in [-127, 127], and of those the numbers again. The second is NaN for a
// block that holds NaN or infinity. One too small for a reciprocal is zero.
struct BlockScale {
  float factor, scale;
};

inline BlockScale scale_block(const float* x, int64_t length) {
  constexpr float kMost = 127;
  Vec most = zero(), poison = zero();  // 0 * x is NaN where x is not finite
  for_vectors(length, [&](int64_t k, auto lanes) {
    most = max(abs(load(x + k, lanes)), most);
    poison = fma(load(x + k, lanes), zero(), poison);
  });
  if (any_nan(poison)) return {0, std::numeric_limits<float>::quiet_NaN()};
  const float largest = reduce_max(most), inverse = kMost / largest;
  return {largest > 0 && std::isfinite(inverse) ? inverse : 0.0f, largest / kMost};
}

// Writes a group of x as quads and returns the sum of its integers. With a factor of zero, x may be anything.
inline int32_t quantise_group(const float* x, float factor, uint32_t* quads) {
  if (factor == 0) {
    std::fill_n(quads, kGroupWords, 0u);
    return 0;
  }
  Vec sum = zero();  // exact: all are integers
  for (int k = 0; k < kGroup; k += kLanes) {
    const Vec rounded = round_even(mul(load(x + k), set1(factor)));
    store_quads(quads + k / 4 * kQuadWords, rounded);
    sum = add(sum, rounded);
  }
  return static_cast<int32_t>(reduce_add(sum));
}

inline void quantise_row(const float* x, int64_t length, int zero_point, int64_t row, const QuantRows& to) {
  const int64_t block_length = to.block_groups * kGroup;
  for (int64_t b = 0; b < to.blocks; ++b) {
    const int64_t begin = b * block_length, end = std::min(length, begin + block_length);
    const BlockScale block = scale_block(x + begin, end - begin);
    to.scale[row * to.blocks + b] = block.scale;
    for (int64_t k = begin; k < end; k += kGroup) {
      float padded[kGroup] = {};
      const float* group = x + k;
      if (end - k < kGroup) group = static_cast<const float*>(std::memcpy(padded, group, (end - k) * sizeof(float)));
      const int64_t g = k / kGroup;
      to.offset[row * to.groups + g] =
          -zero_point * quantise_group(group, block.factor, to.x + row * to.stride + g * kGroupWords);
    }
  }
}

inline QuantRows quantise_rows(const Matmul& m, Cpu& cpu) {
  const bool int8 = m.weight_dtype == DType::int8;
  const int zero_point = int8 ? kInt8Zero : 1;  // int4: of each column, in the tiles
  const int64_t block = int8 ? Int8Group::kBlock : Int4Group::kBlock, groups = num_groups(m.in_features);
  const int64_t blocks = (groups + block - 1) / block, stride = spread_stride(groups * kGroupWords);
  auto* memory = cpu.shared_scratch<uint32_t>(m.num_rows * (stride + groups + blocks));
  const QuantRows rows{.x = memory,
                       .scale = reinterpret_cast<float*>(memory + m.num_rows * (stride + groups)),
                       .offset = reinterpret_cast<int32_t*>(memory + m.num_rows * stride),
                       .groups = groups,
                       .blocks = blocks,
                       .block_groups = block,
                       .stride = stride};
  cpu.parallel_for(m.num_rows, rows_per_chunk(4 * m.in_features), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) quantise_row(m.x + r * m.in_features, m.in_features, zero_point, r, rows);
  });
  return rows;
}

// Some rows and the panel to multiply them with.
struct QuantPanel {
  int64_t first_row, num_rows;
  const std::byte* packed;
};

// Into [num_rows][32] sums. The first tile asks for what follows in the stream; only one or a few rows of int4 do not
// hold it up, so that hardware fetches it as well alone.
template <class Group>
void run_quant_panel(const QuantRows& rows, const QuantPanel& p, float* sums) {
  std::fill_n(sums, p.num_rows * kPanel, 0.0f);
  const int64_t tiles = (p.num_rows + kQuantRows - 1) / kQuantRows;
  const bool asks = Group::kQuads == 1 || p.num_rows > kFewRowsToStream || kQuantVectors * kLanes < kPanel;
  for (int64_t b = 0; b < rows.blocks; ++b) {
    const int64_t g = b * Group::kBlock;
    const std::byte* group = p.packed + g * Group::kBytes;
    for (int c = 0; c < kPanel; c += kQuantVectors * kLanes)
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t first = p.num_rows * i / tiles, end = p.num_rows * (i + 1) / tiles, row = p.first_row + first;
        const QuantTile tile{.x = rows.x + row * rows.stride + g * kGroupWords,
                             .x_stride = rows.stride,
                             .scale = rows.scale + row * rows.blocks + b,
                             .offset = rows.offset + row * rows.groups + g,
                             .scale_stride = rows.blocks,
                             .offset_stride = rows.groups,
                             .group = group,
                             .column = c,
                             .sums = sums + first * kPanel,
                             .num_groups = std::min(Group::kBlock, rows.groups - g)};
        if (asks && i == 0 && c == 0)
          run_quant_tile_of<Group>(end - first, tile, PrefetchAhead{group});
        else
          run_quant_tile_of<Group>(end - first, tile);
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
