// Products of rows with one int8 or int4 panel (matmul/panel.h). x is rounded to 8-bit integers, with one scale for a
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
#include "matmul/float_matmul.h"
#include "matmul/panel_items.h"
#include "matmul/quant_tile.h"

namespace openmoe::OPENMOE_ISA {

#if OPENMOE_ISA_LEVEL >= 1

template <class Group>
constexpr int64_t words_of_x(int64_t length) {
  return length / Group::kPerWord * Group::kOperands;
}

// Rows of x as integers. How many are multiplied into a sum, and share a scale, depends on the Group they meet
// (matmul/quant_tile.h).
struct QuantShape {
  int64_t sums, scales, stride;  // of a row

  template <class Group>
  static QuantShape of(int64_t length) {
    const int64_t sums = (length + Group::kSum - 1) / Group::kSum;
    return {.sums = sums,
            .scales = (length + Group::kScaled - 1) / Group::kScaled,
            .stride = spread_stride(words_of_x<Group>(sums * Group::kSum))};
  }
  int64_t words() const { return stride + sums + scales; }
};

struct QuantRows : QuantShape {
  uint32_t* x;      // [rows][stride] operands
  int32_t* offset;  // [rows][sums]; see QuantTile
  float* scale;     // [rows][scales]

  QuantRows(const QuantShape& shape, int64_t rows, uint32_t* memory)
      : QuantShape(shape),
        x(memory),
        offset(reinterpret_cast<int32_t*>(memory + rows * stride)),
        scale(reinterpret_cast<float*>(memory + rows * (stride + sums))) {}
};

// What makes numbers with one scale integers in [-127, 127], and of those the numbers again. The second is NaN where
// one is NaN or infinite. A largest too small for a reciprocal is zero.
struct ActivationScale {
  float factor, scale;
};

inline ActivationScale find_scale(const float* x, int64_t length) {
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

// Writes what one sum multiplies and returns the sum of its integers. With a factor of zero, x may be anything.
template <class Group>
int32_t quantise_sum(const float* x, float factor, uint32_t* to) {
  if (factor == 0) {
    std::fill_n(to, words_of_x<Group>(Group::kSum), 0u);
    return 0;
  }
  Vec sum = zero();  // exact: all are integers
  for (int64_t k = 0; k < Group::kSum; k += kLanes) {
    const Vec rounded = round_even(mul(load(x + k), set1(factor)));
    Group::store_x(to + words_of_x<Group>(k), rounded);
    sum = add(sum, rounded);
  }
  return static_cast<int32_t>(reduce_add(sum));
}

// `zero_point` is that of all weights, or 1 where each column has its own.
template <class Group>
void quantise_row(const float* x, int64_t length, int zero_point, int64_t row, const QuantRows& to) {
  constexpr int64_t kSum = Group::kSum;
  for (int64_t s = 0; s < to.scales; ++s) {
    const int64_t begin = s * Group::kScaled, end = std::min(length, begin + Group::kScaled);
    const ActivationScale found = find_scale(x + begin, end - begin);
    to.scale[row * to.scales + s] = found.scale;
    for (int64_t k = begin; k < end; k += kSum) {
      float padded[kSum] = {};
      const float* numbers = x + k;
      if (end - k < kSum) numbers = static_cast<const float*>(std::memcpy(padded, numbers, (end - k) * sizeof(float)));
      to.offset[row * to.sums + k / kSum] =
          -zero_point * quantise_sum<Group>(numbers, found.factor, to.x + row * to.stride + words_of_x<Group>(k));
    }
  }
}

// Some rows and the panel to multiply them with.
struct QuantPanel {
  int64_t first_row, num_rows;
  const std::byte* packed;
};

// One tile passes a panel as a stream; several share blocks of weights that wait in L2, 72 KiB, or in L1 where tiles
// are small and come back often, 18 KiB.
inline constexpr int64_t kBlocksInCache = OPENMOE_ISA_LEVEL >= 2 ? 16 : 4;

// Into [num_rows][32] sums. Where tiles are small, they fetch the next block together; elsewhere the first asks for
// what follows in the stream. Only one or a few rows of int4 do not hold wide vectors up, so that hardware fetches it
// as well alone.
template <class Group>
void run_quant_panel(const QuantRows& rows, const QuantPanel& p, float* sums) {
  std::fill_n(sums, p.num_rows * kPanel, 0.0f);
  const int64_t tiles = (p.num_rows + kQuantRows - 1) / kQuantRows;
  const bool asks = OPENMOE_ISA_LEVEL < 2 || Group::kDType == DType::int8 || p.num_rows > kFewRowsToStream;
  const bool fetches = OPENMOE_ISA_LEVEL < 2 && tiles > 1;
  const int64_t step = tiles == 1 ? rows.sums : kBlocksInCache * Group::kSums;
  for (int64_t s = 0; s < rows.sums; s += step) {
    const int64_t k = s * Group::kSum, length = std::min(step, rows.sums - s) * Group::kSum;
    const std::byte* group = p.packed + k / group_length(Group::kDType) * group_bytes(Group::kDType);
    const size_t bytes = length / group_length(Group::kDType) * group_bytes(Group::kDType);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t first = p.num_rows * i / tiles, end = p.num_rows * (i + 1) / tiles, row = p.first_row + first;
      const QuantTile tile{.x = rows.x + row * rows.stride + words_of_x<Group>(k),
                           .x_stride = rows.stride,
                           .scale = rows.scale + row * rows.scales + k / Group::kScaled,
                           .offset = rows.offset + row * rows.sums + s,
                           .scale_stride = rows.scales,
                           .offset_stride = rows.sums,
                           .group = group,
                           .sums = sums + first * kPanel,
                           .num_sums = length / Group::kSum};
      if (fetches && i < kFetchingTiles)
        run_quant_tile_of<Group>(end - first, tile, fetch_part({group + bytes, bytes}, i, tiles, bytes));
      else if (asks && i == 0)
        run_quant_tile_of<Group>(end - first, tile, PrefetchAhead{group});
      else
        run_quant_tile_of<Group>(end - first, tile);
    }
  }
}

#else

inline constexpr int64_t kWideLength = 128;  // of k, of one panel in f32: 16 KiB

// One group of a panel as an f32 panel of 32 k. The innermost loops are over columns: compilers make vectors of that.
inline void widen_int8(const uint16_t* scales, const uint32_t* words, float* to) {
  float scale[kPanel];
  for (int c = 0; c < kPanel; ++c) scale[c] = int8_scale(scales[c]);
  for (int64_t w = 0; w < group_words(DType::int8); ++w, words += kPanel)
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
  for (int64_t w = 0; w < group_words(DType::int4); ++w, words += kPanel)
    for (const int place : {0, 2, 4, 6, 1, 3, 5, 7}) {
      for (int c = 0; c < kPanel; ++c)
        to[c] = scale[c] * static_cast<float>(static_cast<int32_t>(words[c] >> 4 * place & 15) - zero_point[c]);
      to += kPanel;
    }
}

// Rows of x times one panel, into [num_rows][32] sums.
inline void run_wide_panel(const Matmul& m, int64_t first_row, int64_t num_rows, const std::byte* panel, float* sums) {
  const int64_t length = group_length(m.weight_dtype);
  for (int64_t k = 0; k < m.in_features; k += kWideLength) {
    alignas(64) float wide[kWideLength * kPanel];
    for (int64_t i = k; i < std::min(k + kWideLength, m.in_features); i += length) {
      const auto* scales = reinterpret_cast<const uint16_t*>(panel + i / length * group_bytes(m.weight_dtype));
      const auto* words = reinterpret_cast<const uint32_t*>(scales + kPanel);
      float* to = wide + (i - k) * kPanel;
      m.weight_dtype == DType::int8 ? widen_int8(scales, words, to) : widen_int4(scales, words, to);
    }
    run_tiles<F32Weights>({.x = m.x + first_row * m.in_features + k,
                           .x_stride = m.in_features,
                           .rows = num_rows,
                           .word = reinterpret_cast<const uint32_t*>(wide),
                           .num_k = std::min(kWideLength, m.in_features - k),
                           .sums = sums,
                           .next = {},
                           .resume = k > 0});
  }
}

#endif

}  // namespace openmoe::OPENMOE_ISA
