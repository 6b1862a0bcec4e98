// A tile of the source is read, converted to the target's dtype and packed while it is warm in the cache. Tiles are
// one panel high where the source is stored [out, in]; where it is stored [in, out] they are as wide as its rows, so
// that both are read in long runs. Any other stride is read in spans with holes, or number by number.
#include "support/weight_loader.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "support/bf16.h"
#include "support/error.h"
#include "support/input_file.h"
#include "support/panel.h"
#include "support/quantise.h"

namespace openmoe {

namespace {

constexpr int64_t kTileBytes = 1 << 20;  // of each thread; large reads, and most of it still in L2 when packed
constexpr int64_t kWideRows = 4096;      // of a tile of an [in, out] source; leaves room for a group of k
constexpr int64_t kMaxStride = 64;       // beyond it, what lies between two numbers is not read along with them
constexpr int64_t kSegment = 128;        // words of k packed at a time: 32 rows of them stay in L1

struct f16 {
  uint16_t bits;
};
inline float to_float(float x) { return x; }
inline float to_float(f16 x) { return half_to_float(x.bits); }
inline void assign(float& to, float x) { to = x; }
inline void assign(bf16& to, float x) { to = to_bf16(x); }

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

// Numbers in memory, as they are in the file.
struct Tile {
  const std::byte* data;
  DType dtype;
  int64_t rows, cols, row_stride, col_stride;
  const std::byte* at(int64_t r, int64_t k) const { return data + (r * row_stride + k * col_stride) * bytes_of(dtype); }
};

struct TileShape {
  int64_t rows, cols;
};

// Numbers of buffer that one number of a run takes.
int64_t footprint(int64_t stride) { return stride > kMaxStride ? 1 : std::max<int64_t>(stride, 1); }

// Rows are a multiple of `align`, cols of a quantised group; a tile fits in kTileBytes.
TileShape tile_shape(const MatrixSource& s, int64_t align) {
  const bool rows_are_runs = s.col_stride <= s.row_stride || s.rows == 1;
  const int64_t most = rows_are_runs ? kPanel : kWideRows / footprint(s.row_stride);
  const int64_t rows = (std::min(s.rows, most) + align - 1) / align * align;
  const int64_t run = rows * footprint(rows_are_runs ? s.col_stride : s.row_stride);
  const int64_t cols = kTileBytes / static_cast<int64_t>(bytes_of(s.dtype)) / run;
  return {rows, std::max<int64_t>(cols / kGroup * kGroup, kGroup)};
}

Tile read_tile(const InputFile& file, const MatrixSource& s, int64_t row, int64_t rows, int64_t col, int64_t cols,
               std::byte* buffer) {
  const int64_t size = bytes_of(s.dtype);
  const auto read = [&](int64_t to, int64_t r, int64_t k, int64_t count) {
    file.read(buffer + to * size,
              s.offset + static_cast<uint64_t>((row + r) * s.row_stride + (col + k) * s.col_stride) * size,
              count * size);
  };
  const double whole = (rows - 1.0) * s.row_stride + (cols - 1.0) * s.col_stride + 1;
  if (whole <= static_cast<double>(rows * cols)) {
    read(0, 0, 0, static_cast<int64_t>(whole));
    return {buffer, s.dtype, rows, cols, s.row_stride, s.col_stride};
  }
  const bool rows_are_runs = s.col_stride <= s.row_stride || s.rows == 1;
  const int64_t runs = rows_are_runs ? rows : cols, length = rows_are_runs ? cols : rows;
  const int64_t stride = rows_are_runs ? s.col_stride : s.row_stride;
  const bool with_holes = stride <= kMaxStride;
  const int64_t span = with_holes ? (length - 1) * stride + 1 : length;
  for (int64_t i = 0; i < runs; ++i) {
    if (with_holes)
      read(i * span, rows_are_runs ? i : 0, rows_are_runs ? 0 : i, span);
    else
      for (int64_t j = 0; j < length; ++j) read(i * span + j, rows_are_runs ? i : j, rows_are_runs ? j : i, 1);
  }
  const int64_t step = with_holes ? stride : 1;
  return {buffer, s.dtype, rows, cols, rows_are_runs ? span : step, rows_are_runs ? step : span};
}

// Packs rows [row, row + rows) of a tile, all of one panel, from lane 0 of `to`: the panel's words at the tile's first
// k. A word is one f32, or two bf16 neighbours in k.
template <class T>
void pack_rows(const Tile& tile, int64_t row, int64_t rows, uint32_t* to) {
  constexpr int64_t kPerWord = sizeof(uint32_t) / sizeof(T), kNumbers = kSegment * kPerWord;
  for (int64_t k = 0; k < tile.cols; k += kNumbers, to += kSegment * kPanel) {
    const int64_t n = std::min(kNumbers, tile.cols - k), words = (n + kPerWord - 1) / kPerWord;
    alignas(64) T staged[kNumbers * kPanel];
    if (tile.row_stride == 1) {  // [k][lane]: neighbours in k are zipped
      for (int64_t i = 0; i < n; ++i) convert(tile.at(row, k + i), tile.dtype, 1, rows, staged + i * kPanel);
      if (n % kPerWord) std::memset(staged + n * kPanel, 0, kPanel * sizeof(T));
      for (int64_t w = 0; w < words; ++w) {
        const T* numbers = staged + w * kPerWord * kPanel;
        if constexpr (kPerWord == 1)
          std::memcpy(to + w * kPanel, numbers, rows * sizeof(T));
        else
          for (int64_t r = 0; r < rows; ++r)
            to[w * kPanel + r] = numbers[r].bits | uint32_t{numbers[kPanel + r].bits} << 16;
      }
    } else {  // [lane][k]: words are transposed
      for (int64_t r = 0; r < rows; ++r) {
        convert(tile.at(row + r, k), tile.dtype, tile.col_stride, n, staged + r * kNumbers);
        if (n % kPerWord) staged[r * kNumbers + n] = {};
      }
      for (int64_t w = 0; w < words; ++w)
        for (int64_t r = 0; r < rows; ++r)
          std::memcpy(to + w * kPanel + r, staged + r * kNumbers + w * kPerWord, sizeof(uint32_t));
    }
  }
}

// The same into groups of a quantised panel, from the one at the tile's first k.
void pack_groups(const Tile& tile, int64_t row, int64_t rows, DType dtype, std::byte* group, int lane) {
  for (int64_t k = 0; k < tile.cols; k += kGroup, group += group_bytes(dtype)) {
    const int64_t n = std::min<int64_t>(kGroup, tile.cols - k);
    alignas(64) GroupBlock block = {};
    if (tile.row_stride == 1) {
      for (int64_t i = 0; i < n; ++i) convert(tile.at(row, k + i), tile.dtype, 1, rows, block[i]);
    } else {
      float numbers[kGroup];
      for (int64_t r = 0; r < rows; ++r) {
        convert(tile.at(row + r, k), tile.dtype, tile.col_stride, n, numbers);
        for (int64_t i = 0; i < n; ++i) block[i][r] = numbers[i];
      }
    }
    quantise_group(dtype, block, static_cast<int>(rows), group, lane);
  }
}

// Packs a tile whose first number belongs at [row, col] of the target matrix; col is a multiple of a group.
void pack_tile(const Tile& tile, const MatrixTarget& t, int64_t index, int64_t row, int64_t col) {
  const size_t bytes = panel_bytes(t.dtype, t.in_features);
  const int64_t word = t.dtype == DType::bf16 ? col / 2 : col;
  for (int64_t r = 0; r < tile.rows;) {
    const int64_t lane = (row + r) % kPanel, rows = std::min(kPanel - lane, tile.rows - r);
    const int64_t panel = index * num_panels(t.out_features) + panel_place(t, (row + r) / kPanel);
    auto* start = static_cast<std::byte*>(t.buffer->data()) + panel * bytes;
    auto* to = reinterpret_cast<uint32_t*>(start);
    if (is_quantised(t.dtype))
      pack_groups(tile, r, rows, t.dtype, start + col / kGroup * group_bytes(t.dtype), static_cast<int>(lane));
    else if (t.dtype == DType::bf16)
      pack_rows<bf16>(tile, r, rows, to + word * kPanel + lane);
    else
      pack_rows<float>(tile, r, rows, to + word * kPanel + lane);
    r += rows;
  }
}

// use(tile, row, col) for every tile of the source, on all threads. Tiles begin where rows + row_offset is a multiple
// of the tile's, so that no two of them share a panel.
template <class F>
void for_tiles(Cpu& cpu, const MatrixSource& s, TileShape shape, int64_t row_offset, const std::atomic<bool>& stop,
               F&& use) {
  if (s.rows == 0 || s.cols == 0) return;
  const InputFile file(s.path);
  file.expect_bytes(s.offset + ((s.rows - 1.0) * s.row_stride + (s.cols - 1.0) * s.col_stride + 1) * bytes_of(s.dtype));
  const int64_t first = row_offset / shape.rows, end = (row_offset + s.rows - 1) / shape.rows + 1;
  const int64_t across = (s.cols + shape.cols - 1) / shape.cols;
  cpu.parallel_for((end - first) * across, 1, [&](int64_t begin_tile, int64_t end_tile, int thread) {
    auto* buffer = cpu.scratch<std::byte>(thread, kTileBytes);
    for (int64_t i = begin_tile; i < end_tile; ++i) {
      if (stop.load(std::memory_order_relaxed)) throw Error("ABORTED", "Loading was stopped.");
      const int64_t begin = (first + i / across) * shape.rows - row_offset;
      const int64_t row = std::max<int64_t>(begin, 0), rows = std::min(begin + shape.rows, s.rows) - row;
      const int64_t col = i % across * shape.cols, cols = std::min(shape.cols, s.cols - col);
      use(read_tile(file, s, row, rows, col, cols, buffer), row, col);
    }
  });
}

// Columns [first, first + columns) of a quantised panel become lanes [lane, lane + columns) of another.
struct ColumnCopy {
  int first, columns, lane;
};
void copy_columns(DType dtype, int64_t groups, const std::byte* from, const ColumnCopy& c, std::byte* to) {
  for (int64_t g = 0; g < groups; ++g, from += group_bytes(dtype), to += group_bytes(dtype)) {
    std::memcpy(to + c.lane * sizeof(uint16_t), from + c.first * sizeof(uint16_t), c.columns * sizeof(uint16_t));
    for (int64_t w = 0; w < group_words(dtype); ++w) {
      const size_t word = kPanel * (sizeof(uint16_t) + w * sizeof(uint32_t));
      std::memcpy(to + word + c.lane * sizeof(uint32_t), from + word + c.first * sizeof(uint32_t),
                  c.columns * sizeof(uint32_t));
    }
  }
}

// Panels that lie packed in the file: read to where they belong, unless they begin inside a panel.
void load_panels(Cpu& cpu, const MatrixSource& s, const MatrixTarget& t, const std::atomic<bool>& stop) {
  if (s.dtype != t.dtype || s.cols != t.in_features)
    fail_arg("panels of " + std::string(name_of(s.dtype)) + " x " + std::to_string(s.cols) +
             " cannot become part of a matrix of " + std::string(name_of(t.dtype)) + " x " +
             std::to_string(t.in_features));
  const InputFile file(s.path);
  const auto bytes = static_cast<int64_t>(panel_bytes(s.dtype, s.cols)), panels = num_panels(s.rows);
  file.expect_bytes(static_cast<double>(s.offset) + static_cast<double>(panels) * static_cast<double>(bytes));
  const int lane = static_cast<int>(t.row_offset % kPanel);
  const int64_t first = t.row_offset / kPanel;
  std::byte* const matrix = static_cast<std::byte*>(t.buffer->data()) + t.index * num_panels(t.out_features) * bytes;
  std::byte* to = matrix + first * bytes;
  if (lane > 0) {
    std::vector<std::byte> panel(bytes);
    for (int64_t p = 0; p < panels; ++p, to += bytes) {
      if (stop.load(std::memory_order_relaxed)) throw Error("ABORTED", "Loading was stopped.");
      const int columns = static_cast<int>(std::min<int64_t>(kPanel, s.rows - p * kPanel));
      const int here = std::min(columns, kPanel - lane);
      file.read(panel.data(), s.offset + p * bytes, bytes);
      copy_columns(s.dtype, num_groups(s.cols), panel.data(), {0, here, lane}, to);
      if (columns > here)
        copy_columns(s.dtype, num_groups(s.cols), panel.data(), {here, columns - here, 0}, to + bytes);
    }
    return;
  }
  if (is_interleaved(t.layout, t.out_features)) {
    cpu.parallel_for(panels, 8, [&](int64_t begin, int64_t end, int) {
      if (stop.load(std::memory_order_relaxed)) throw Error("ABORTED", "Loading was stopped.");
      for (int64_t p = begin; p < end; ++p)
        file.read(matrix + panel_place(t, first + p) * bytes, s.offset + p * bytes, bytes);
    });
    return;
  }
  const int64_t chunks = (panels * bytes + kTileBytes - 1) / kTileBytes;
  cpu.parallel_for(chunks, 1, [&](int64_t begin, int64_t end, int) {
    if (stop.load(std::memory_order_relaxed)) throw Error("ABORTED", "Loading was stopped.");
    const int64_t from = begin * kTileBytes, until = std::min(end * kTileBytes, panels * bytes);
    file.read(to + from, s.offset + from, until - from);
  });
}

}  // namespace

void load_matrix(Cpu& cpu, const MatrixSource& source, const MatrixTarget& target, const std::atomic<bool>& stop) {
  if (is_quantised(source.dtype)) return load_panels(cpu, source, target, stop);
  for_tiles(cpu, source, tile_shape(source, kPanel), target.row_offset, stop,
            [&](const Tile& tile, int64_t row, int64_t col) {
              pack_tile(tile, target, target.index, target.row_offset + row, col);
            });
}

void load_rows(Cpu& cpu, const MatrixSource& source, void* to, DType dtype, const std::atomic<bool>& stop) {
  MatrixSource s = source;
  if (s.col_stride == 1 && s.row_stride == s.cols)  // one run
    s.cols *= s.rows, s.rows = 1;
  for_tiles(cpu, s, tile_shape(s, 1), 0, stop, [&](const Tile& tile, int64_t row, int64_t col) {
    for (int64_t r = 0; r < tile.rows; ++r) {
      const int64_t at = (row + r) * s.cols + col;
      if (dtype == DType::bf16)
        convert(tile.at(r, 0), tile.dtype, tile.col_stride, tile.cols, static_cast<bf16*>(to) + at);
      else
        convert(tile.at(r, 0), tile.dtype, tile.col_stride, tile.cols, static_cast<float*>(to) + at);
    }
  });
}

void pack_matrix(Cpu& cpu, const float* from, const MatrixTarget& target) {
  const MatrixTarget& t = target;
  const int64_t panels = num_panels(t.out_features);
  cpu.parallel_for(t.count * panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = i / panels, row = i % panels * kPanel;
      const auto* rows = reinterpret_cast<const std::byte*>(from + (index * t.out_features + row) * t.in_features);
      pack_tile({rows, DType::f32, std::min<int64_t>(kPanel, t.out_features - row), t.in_features, t.in_features, 1}, t,
                index, row, 0);
    }
  });
}

}  // namespace openmoe
