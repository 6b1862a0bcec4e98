#include "support/tile_packing.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "matmul/panel.h"
#include "support/bf16.h"
#include "support/packing_vectors.h"
#include "support/quantise.h"

namespace openmoe {

namespace {

constexpr int64_t kSegment = 128;  // words of k packed at a time: 32 rows of them stay in L1

struct f16 {
  uint16_t bits;
};
inline float to_float(float x) { return x; }
inline float to_float(f16 x) { return half_to_float(x.bits); }
inline void assign(float& to, float x) { to = x; }
inline void assign(bf16& to, float x) { to = to_bf16(x); }

template <class T>
constexpr DType dtype_of = sizeof(T) == sizeof(float) ? DType::f32 : DType::bf16;

template <class From, class To>
void convert(const From* from, int64_t stride, int64_t n, To* to) {
  if constexpr (std::is_same_v<From, To>)
    if (stride == 1) return static_cast<void>(std::memcpy(to, from, n * sizeof(To)));
  if (stride == 1)
    for (int64_t i = 0; i < n; ++i) assign(to[i], to_float(from[i]));
  else
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<From, To>)
        to[i] = from[i * stride];  // NaN payloads included
      else
        assign(to[i], to_float(from[i * stride]));
    }
}

template <class To>
void convert(const std::byte* from, DType dtype, int64_t stride, int64_t n, To* to) {
  if (dtype == DType::f32) convert(reinterpret_cast<const float*>(from), stride, n, to);
  if (dtype == DType::bf16) convert(reinterpret_cast<const bf16*>(from), stride, n, to);
  if (dtype == DType::f16) convert(reinterpret_cast<const f16*>(from), stride, n, to);
}

// to[w][r] = word w of row r, for 4 words of 4 rows: what pairs of rows hold is zipped, then pairs of pairs.
inline void transpose_4x4(const std::byte* from, int64_t row_bytes, uint32_t* to) {
  Words rows[4], columns[4];
  for (int r = 0; r < 4; ++r) rows[r] = load_words(from + r * row_bytes);
  const auto low = [](Words a, Words b) { return Words{a[0], b[0], a[1], b[1]}; };
  const auto high = [](Words a, Words b) { return Words{a[2], b[2], a[3], b[3]}; };
  const Words a = low(rows[0], rows[2]), b = low(rows[1], rows[3]);
  const Words c = high(rows[0], rows[2]), d = high(rows[1], rows[3]);
  columns[0] = low(a, b), columns[1] = high(a, b), columns[2] = low(c, d), columns[3] = high(c, d);
  for (int w = 0; w < 4; ++w) std::memcpy(to + w * kPanel, &columns[w], sizeof(Words));
}

// Words of rows that begin `row_bytes` apart -> [word][lane]. A cache line of four rows at a time: lines of more rows
// can share a place in L1. Words of all lanes are made there before they are written.
void transpose_words(const std::byte* from, int64_t row_bytes, int64_t rows, int64_t words, uint32_t* to) {
  constexpr int64_t kLine = 16;
  alignas(16) uint32_t whole[kLine * kPanel];
  for (int64_t begin = 0; begin < words; begin += kLine, from += kLine * sizeof(uint32_t), to += kLine * kPanel) {
    const int64_t count = std::min(kLine, words - begin);
    uint32_t* out = rows == kPanel ? whole : to;
    for (int64_t r = 0; r < rows;) {
      const int64_t height = rows - r >= 4 ? 4 : 1;
      int64_t w = 0;
      for (; height == 4 && w + 4 <= count; w += 4)
        transpose_4x4(from + r * row_bytes + w * sizeof(uint32_t), row_bytes, out + w * kPanel + r);
      for (; w < count; ++w)
        for (int64_t i = r; i < r + height; ++i)
          std::memcpy(out + w * kPanel + i, from + i * row_bytes + w * sizeof(uint32_t), sizeof(uint32_t));
      r += height;
    }
    if (rows == kPanel)
      for (int64_t i = 0; i < count * kPanel; i += 4) write_past_caches(load_words(whole + i), to + i);
  }
}

// even[0] odd[0] even[1] odd[1] ... of all lanes.
void zip_panel(const bf16* even, const bf16* odd, uint32_t* to) {
  for (int64_t r = 0; r < kPanel; r += 8) {
    const Words a = load_words(even + r), b = load_words(odd + r);
    write_past_caches(zip_low(a, b), to + r);
    write_past_caches(zip_high(a, b), to + r + 4);
  }
}

// Rows of one lane each, k by k -> [word][lane]: neighbours in k are zipped.
template <class T>
void zip_words(const T* from, int64_t k_stride, int64_t rows, int64_t words, uint32_t* to) {
  for (int64_t w = 0; w < words; ++w, to += kPanel) {
    if constexpr (sizeof(T) == sizeof(uint32_t)) {
      std::memcpy(to, from + w * k_stride, rows * sizeof(T));
    } else {
      const T *even = from + 2 * w * k_stride, *odd = even + k_stride;
      if (rows == kPanel)
        zip_panel(even, odd, to);
      else
        for (int64_t r = 0; r < rows; ++r) to[r] = even[r].bits | uint32_t{odd[r].bits} << 16;
    }
  }
}

// Packs rows [row, row + rows) of a tile, all of one panel, from lane 0 of `to`: the panel's words at the tile's first
// k. A word is one f32, or two bf16 neighbours in k. What must be converted or padded first is staged.
template <class T>
void pack_rows(const Tile& tile, int64_t row, int64_t rows, uint32_t* to) {
  constexpr int64_t kPerWord = sizeof(uint32_t) / sizeof(T), kNumbers = kSegment * kPerWord;
  const bool by_k = tile.row_stride == 1;
  if (tile.dtype == dtype_of<T> && tile.cols % kPerWord == 0 && (by_k || tile.col_stride == 1)) {
    const std::byte* from = tile.at(row, 0);
    if (by_k)
      zip_words(reinterpret_cast<const T*>(from), tile.col_stride, rows, tile.cols / kPerWord, to);
    else
      transpose_words(from, tile.row_stride * static_cast<int64_t>(sizeof(T)), rows, tile.cols / kPerWord, to);
    return;
  }
  for (int64_t k = 0; k < tile.cols; k += kNumbers, to += kSegment * kPanel) {
    const int64_t n = std::min(kNumbers, tile.cols - k), words = (n + kPerWord - 1) / kPerWord;
    alignas(64) T staged[kNumbers * kPanel];
    if (by_k) {
      for (int64_t i = 0; i < n; ++i) convert(tile.at(row, k + i), tile.dtype, 1, rows, staged + i * kPanel);
      if (n % kPerWord) std::memset(staged + n * kPanel, 0, kPanel * sizeof(T));
      zip_words(staged, kPanel, rows, words, to);
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        convert(tile.at(row + r, k), tile.dtype, tile.col_stride, n, staged + r * kNumbers);
        if (n % kPerWord) staged[r * kNumbers + n] = {};
      }
      transpose_words(reinterpret_cast<const std::byte*>(staged), kNumbers * sizeof(T), rows, words, to);
    }
  }
}

// The same into groups of a quantised panel, from the one at the tile's first k.
void pack_groups(const Tile& tile, int64_t row, int64_t rows, DType dtype, std::byte* group, int lane) {
  const int64_t length = group_length(dtype);
  for (int64_t k = 0; k < tile.cols; k += length, group += group_bytes(dtype)) {
    const int64_t n = std::min(length, tile.cols - k);
    alignas(64) float block[kMaxGroup][kPanel] = {};
    if (tile.row_stride == 1) {
      for (int64_t i = 0; i < n; ++i) convert(tile.at(row, k + i), tile.dtype, 1, rows, block[i]);
    } else {
      float numbers[kMaxGroup];
      for (int64_t r = 0; r < rows; ++r) {
        convert(tile.at(row + r, k), tile.dtype, tile.col_stride, n, numbers);
        for (int64_t i = 0; i < n; ++i) block[i][r] = numbers[i];
      }
    }
    quantise_group(dtype, block, static_cast<int>(rows), group, lane);
  }
}

}  // namespace

void pack_tile(const Tile& tile, const MatrixTarget& t, int64_t index, int64_t row, int64_t col) {
  const size_t bytes = panel_bytes(t.dtype, t.in_features);
  const int64_t word = t.dtype == DType::bf16 ? col / 2 : col;
  for (int64_t r = 0; r < tile.rows;) {
    const int64_t lane = (row + r) % kPanel, rows = std::min(kPanel - lane, tile.rows - r);
    const int64_t panel = index * num_panels(t.out_features) + panel_place(t, (row + r) / kPanel);
    auto* start = static_cast<std::byte*>(t.buffer->data()) + panel * bytes;
    auto* to = reinterpret_cast<uint32_t*>(start);
    if (is_quantised(t.dtype))
      pack_groups(tile, r, rows, t.dtype, start + col / group_length(t.dtype) * group_bytes(t.dtype),
                  static_cast<int>(lane));
    else if (t.dtype == DType::bf16)
      pack_rows<bf16>(tile, r, rows, to + word * kPanel + lane);
    else
      pack_rows<float>(tile, r, rows, to + word * kPanel + lane);
    r += rows;
  }
  end_writes();
}

void copy_tile(const Tile& tile, DType dtype, std::byte* to, int64_t row_bytes) {
  for (int64_t r = 0; r < tile.rows; ++r, to += row_bytes) {
    if (dtype == DType::bf16)
      convert(tile.at(r, 0), tile.dtype, tile.col_stride, tile.cols, reinterpret_cast<bf16*>(to));
    else
      convert(tile.at(r, 0), tile.dtype, tile.col_stride, tile.cols, reinterpret_cast<float*>(to));
  }
}

void copy_lanes(DType dtype, int64_t groups, const std::byte* from, const LaneCopy& c, std::byte* to) {
  for (int64_t g = 0; g < groups; ++g, from += group_bytes(dtype), to += group_bytes(dtype)) {
    std::memcpy(to + c.to * sizeof(uint16_t), from + c.from * sizeof(uint16_t), c.count * sizeof(uint16_t));
    for (int64_t w = 0; w < group_words(dtype); ++w) {
      const size_t word = kPanel * (sizeof(uint16_t) + w * sizeof(uint32_t));
      std::memcpy(to + word + c.to * sizeof(uint32_t), from + word + c.from * sizeof(uint32_t),
                  c.count * sizeof(uint32_t));
    }
  }
}

}  // namespace openmoe
