// What attention does with one page of keys or values and a few rows. Every score is one chain of multiply-adds over
// head_dim in order, every output one over key positions in order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "ops/kv_append.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// Rows of a block: as many as leave room for two vectors of sums per row in the registers.
inline constexpr int kMaxRows = OPENMOE_ISA_LEVEL >= 2 ? 12 : 6;
// Vectors of sums per row: about a dozen chains hide the latency of a fused multiply-add.
constexpr int cols_of(int rows) { return rows >= 4 ? 2 : rows >= 2 ? 4 : 8; }

// While one page is worked on, what will be read kAhead pages later is fetched, as many lines for each step: the cores'
// own prefetchers stop at the end of a page, and a page fetched in one go leaves memory idle until the next one. Into
// the second cache, which keeps more misses in flight than the first. A full block is part of a prompt: it has much to
// compute, and its neighbours have left the pages in a cache.
inline constexpr int kAhead = 2;
template <int kRows>
void fetch(const std::byte* p) {
  if constexpr (kRows < kMaxRows) __builtin_prefetch(p, 0, 2);
}

// Pairs of bf16 that wait in registers for their second half push a sum out of 16 of them.
inline constexpr bool kReadTwice = OPENMOE_ISA_LEVEL < 2;

// sum[r][c] += q[r * stride] * key(c)
template <int kRows, int kCols, class F>
void add_dimension(Vec (&sum)[kRows][kCols], const float* q, int64_t stride, F&& key) {
  Vec keys[kCols];
#pragma GCC unroll 16
  for (int c = 0; c < kCols; ++c) keys[c] = key(c);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const Vec x = set1(q[r * stride]);
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) sum[r][c] = fma(x, keys[c], sum[r][c]);
  }
}

// sum[r][c] += q[r] . key t + c of a page, over head_dim in order.
template <int kRows, int kCols>
void add_dimensions(Vec (&sum)[kRows][kCols], const float* q, const float* keys, int t, int64_t head_dim,
                    const std::byte* ahead) {
  for (int64_t d = 0; d < head_dim; ++d, ++q, keys += kPageTokens, ahead += 128) {
    fetch<kRows>(ahead), fetch<kRows>(ahead + 64);
    add_dimension(sum, q, head_dim, [&](int c) { return load(keys + t + c * kLanes); });
  }
}
template <int kRows, int kCols>
void add_dimensions(Vec (&sum)[kRows][kCols], const float* q, const bf16* keys, int t, int64_t head_dim,
                    const std::byte* ahead) {
  const auto half = [&](int c, int which) {
    Vec pair[2];
    load_pairs(keys + 2 * (t + c * kLanes), pair[0], pair[1]);
    return pair[which];
  };
  int64_t d = 0;
  for (; d + 1 < head_dim; d += 2, q += 2, keys += 2 * kPageTokens, ahead += 128) {
    fetch<kRows>(ahead), fetch<kRows>(ahead + 64);
    add_dimension(sum, q, head_dim, [&](int c) { return half(c, 0); });
    if constexpr (kReadTwice && kRows == kMaxRows) asm("" : "+r"(keys));
    add_dimension(sum, q + 1, head_dim, [&](int c) { return half(c, 1); });
  }
  if (d < head_dim) add_dimension(sum, q, head_dim, [&](int c) { return load(keys + t + c * kLanes); });
}

// tile[r][t] = q[r] . key t of the page
template <int kRows, class T>
void score_page(const float* q, const T* keys, int64_t head_dim, float* tile, const std::byte* ahead) {
  constexpr int kCols = std::min(cols_of(kRows), kPageTokens / kLanes);
  for (int t = 0; t < kPageTokens; t += kCols * kLanes) {
    Vec sum[kRows][kCols];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) sum[r][c] = zero();
    add_dimensions(sum, q, keys, t, head_dim, ahead);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) store(tile + r * kPageTokens + t + c * kLanes, sum[r][c]);
  }
}

// Makes the scores of the first `num_keys` positions of a row exp(score - highest) and returns their sum; the rest of
// the row's last page becomes zero. Row r of page p is at tiles + p * stride. Not inlined, as every number of rows in a
// block would have a copy of it.
[[gnu::noinline]] inline float softmax_row(float* tiles, int64_t stride, int64_t num_keys) {
  const int64_t pages = (num_keys + kPageTokens - 1) / kPageTokens;
  float* const last = tiles + (pages - 1) * stride;
  const int64_t used = num_keys - (pages - 1) * kPageTokens;
  std::fill(last + used, last + kPageTokens, -std::numeric_limits<float>::infinity());
  Vec highest = load(tiles);
  for (int64_t p = 0; p < pages; ++p)
    for (int t = 0; t < kPageTokens; t += kLanes) highest = max(highest, load(tiles + p * stride + t));
  highest = set1(reduce_max(highest));

  Vec sum = zero();
  for (float* tile = tiles; tile != last; tile += stride)
    for (int t = 0; t < kPageTokens; t += kLanes) {
      const Vec weight = exp(sub(load(tile + t), highest));
      store(tile + t, weight);
      sum = add(sum, weight);
    }
  for (int t = 0; t < kPageTokens; t += kLanes) store(last + t, exp(sub(load(last + t), highest)));
  std::fill(last + used, last + kPageTokens, 0.0f);  // exp() of -infinity is a little more
  for (int t = 0; t < kPageTokens; t += kLanes) sum = add(sum, load(last + t));
  return reduce_add(sum);
}

// out[r] += probs[r][t] * values[t] for t in [begin, end)
template <class T>
struct PageSum {
  const float* probs;  // rows of 32
  const T* values;
  int64_t head_dim;
  int begin, end;
  float* out;
  int64_t out_stride;
  const std::byte* ahead;
};

// kCols vectors of columns from d on; `lanes` is that of the last.
template <int kRows, int kCols, class T, class Lanes>
void add_columns(const PageSum<T>& page, int64_t d, Lanes lanes) {
  float* out = page.out + d;
  Vec sum[kRows][kCols];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) sum[r][c] = load(out + r * page.out_stride + c * kLanes);
  for (int t = page.begin; t < page.end; ++t) {
    const int64_t at = t * page.head_dim + d;
    for (int i = 0; i < kCols * kLanes; i += 64 / sizeof(T)) fetch<kRows>(page.ahead + (at + i) * sizeof(T));
    Vec value[kCols];
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) value[c] = load(page.values + at + c * kLanes, lanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec p = set1(page.probs[r * kPageTokens + t]);
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) sum[r][c] = fma(p, value[c], sum[r][c]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) store(out + r * page.out_stride + c * kLanes, sum[r][c]);
}

// From column d on. Narrow heads, and what is left of wide ones, take half as many vectors at a time.
template <int kRows, class T, int kCols = cols_of(kRows)>
void add_page(const PageSum<T>& page, int64_t d = 0) {
  for (; d + kCols * kLanes <= page.head_dim; d += kCols * kLanes) add_columns<kRows, kCols>(page, d, Full{});
  if constexpr (kCols > 1)
    add_page<kRows, T, kCols / 2>(page, d);
  else if (d < page.head_dim)
    add_columns<kRows, 1>(page, d, Tail{static_cast<int>(page.head_dim - d)});
}

}  // namespace openmoe::OPENMOE_ISA
