// Parts become jobs: a few hundred KiB of a file that lie packed are read to where they belong, others are read as a
// tile, converted to the target's dtype and packed while they are warm in the cache. Tiles are as high as their panels
// where the source is stored [out, in]; where it is stored [in, out] they are as wide as its rows, so that both are
// read in long runs. Any other stride is read in spans with holes, or number by number.
#include "support/weight_loader.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "device/cpu_memory.h"
#include "matmul/panel.h"
#include "support/error.h"
#include "support/input_file.h"
#include "support/tile_packing.h"

namespace openmoe {

namespace {

constexpr int64_t kTileBytes = 512 << 10;    // of each thread; half of an L2 cache
constexpr int64_t kPackedBytes = 256 << 10;  // of a tile of an [out, in] source; with its panels it stays in L2
constexpr int64_t kWideRows = 4096;          // of a tile of an [in, out] source
constexpr int64_t kMaxStride = 32;           // beyond it, what lies between two numbers is not read along with them
constexpr int64_t kLeastCols = 32;           // of a tile whose target has no groups of k
static_assert(kPanel * kMaxStride * kMaxGroup * sizeof(float) <= kTileBytes);

struct TileShape {
  int64_t rows, cols;
};

// Numbers of buffer that one number of a run takes.
int64_t footprint(int64_t stride) { return stride > kMaxStride ? 1 : std::max<int64_t>(stride, 1); }

// Rows are a multiple of `align`, cols of `group`; a tile fits in kTileBytes. Where rows are runs it is as many whole
// rows as stay in L2 while they are packed, where columns are it is as wide as it can be.
TileShape tile_shape(const MatrixSource& s, int64_t align, int64_t group) {
  const bool rows_are_runs = s.col_stride <= s.row_stride || s.rows == 1;
  const auto size = static_cast<int64_t>(bytes_of(s.dtype));
  const int64_t most = rows_are_runs ? kPackedBytes / size / std::max<int64_t>(s.cols * footprint(s.col_stride), 1)
                                     : std::min(kWideRows, kTileBytes / size / group) / footprint(s.row_stride);
  const int64_t rows = std::max(std::min((s.rows + align - 1) / align, most / align), int64_t{1}) * align;
  const int64_t run = rows * footprint(rows_are_runs ? s.col_stride : s.row_stride);
  return {rows, std::max<int64_t>(kTileBytes / size / run / group * group, group)};
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

class Loader {
 public:
  explicit Loader(const std::atomic<bool>& stop) : stop_(stop) {}

  void add_matrix(const MatrixSource& source, const MatrixTarget& target);
  void add_rows(const MatrixSource& source, std::byte* to, DType dtype);
  void run(Cpu& cpu);

 private:
  struct Job {
    std::byte *begin, *end;  // writes inside them
    std::function<void(std::byte* buffer)> load;
    uintptr_t page() const { return reinterpret_cast<uintptr_t>(begin) / kLargePage; }
  };

  const InputFile& open(const std::string& path, double end) {
    const InputFile& file = files_.try_emplace(path, path).first->second;
    file.expect_bytes(end);
    return file;
  }
  void add_copy(const InputFile& file, uint64_t offset, std::byte* to, size_t bytes);
  void add_panels(const MatrixSource& source, const MatrixTarget& target);
  void add_spread_panels(const InputFile& file, const MatrixSource& source, const MatrixTarget& target, int64_t panels);
  template <class F>
  void add_tiles(const MatrixSource& source, TileShape shape, int64_t row_offset, F&& add);
  void run(std::span<const Job> group, std::byte* buffer) const;

  const std::atomic<bool>& stop_;
  std::map<std::string, InputFile> files_;
  std::vector<Job> jobs_;
};

// Bytes that are in the file as they are in memory, a large page at a time.
void Loader::add_copy(const InputFile& file, uint64_t offset, std::byte* to, size_t bytes) {
  while (bytes > 0) {
    const size_t size = std::min(bytes, kLargePage - reinterpret_cast<uintptr_t>(to) % kLargePage);
    jobs_.push_back({to, to + size, [=, &file](std::byte*) { file.read(to, offset, size); }});
    offset += size, to += size, bytes -= size;
  }
}

// add(row, rows, col, cols, read) for every tile of the source. Tiles begin where rows + row_offset is a multiple of
// the tile's, so that no two of them share a panel.
template <class F>
void Loader::add_tiles(const MatrixSource& s, TileShape shape, int64_t row_offset, F&& add) {
  if (s.rows == 0 || s.cols == 0) return;
  const double last = (s.rows - 1.0) * s.row_stride + (s.cols - 1.0) * s.col_stride;
  const InputFile& file = open(s.path, static_cast<double>(s.offset) + (last + 1) * bytes_of(s.dtype));
  const int64_t first = row_offset / shape.rows, end = (row_offset + s.rows - 1) / shape.rows + 1;
  const int64_t across = (s.cols + shape.cols - 1) / shape.cols;
  for (int64_t i = 0; i < (end - first) * across; ++i) {
    const int64_t begin = (first + i / across) * shape.rows - row_offset;
    const int64_t row = std::max<int64_t>(begin, 0), rows = std::min(begin + shape.rows, s.rows) - row;
    const int64_t col = i % across * shape.cols, cols = std::min(shape.cols, s.cols - col);
    add(row, rows, col, [=, &file, &s](std::byte* buffer) { return read_tile(file, s, row, rows, col, cols, buffer); });
  }
}

// Between which places panels [first, end) of a matrix lie.
struct Places {
  int64_t first, end;
};
Places places_of(const MatrixShape& m, int64_t first, int64_t end) {
  Places places{panel_place(m, first), 0};
  for (int64_t panel = first; panel < end; ++panel) {
    places.first = std::min(places.first, panel_place(m, panel));
    places.end = std::max(places.end, panel_place(m, panel) + 1);
  }
  return places;
}

void Loader::add_matrix(const MatrixSource& s, const MatrixTarget& t) {
  if (is_quantised(s.dtype)) return add_panels(s, t);
  const auto bytes = static_cast<int64_t>(panel_bytes(t.dtype, t.in_features));
  auto* matrix = static_cast<std::byte*>(t.buffer->data()) + t.index * num_panels(t.out_features) * bytes;
  add_tiles(s, tile_shape(s, kPanel, is_quantised(t.dtype) ? group_length(t.dtype) : kLeastCols), t.row_offset,
            [&](int64_t row, int64_t rows, int64_t col, auto read) {
              const int64_t to = t.row_offset + row;
              const Places places = places_of(t, to / kPanel, num_panels(to + rows));
              jobs_.push_back({matrix + places.first * bytes, matrix + places.end * bytes,
                               [=, &t](std::byte* buffer) { pack_tile(read(buffer), t, t.index, to, col); }});
            });
}

void Loader::add_rows(const MatrixSource& s, std::byte* to, DType dtype) {
  const bool one_run = s.col_stride == 1 && (s.row_stride == s.cols || s.rows == 1);
  const auto row_bytes = static_cast<int64_t>(s.cols * bytes_of(dtype));
  if (one_run && s.dtype == dtype) {
    const auto bytes = static_cast<size_t>(s.rows * row_bytes);
    if (bytes > 0)
      add_copy(open(s.path, static_cast<double>(s.offset) + static_cast<double>(bytes)), s.offset, to, bytes);
    return;
  }
  add_tiles(s, tile_shape(s, 1, kLeastCols), 0, [&](int64_t row, int64_t rows, int64_t col, auto read) {
    std::byte* first = to + row * row_bytes + col * static_cast<int64_t>(bytes_of(dtype));
    jobs_.push_back({first, to + (row + rows) * row_bytes,
                     [=](std::byte* buffer) { copy_tile(read(buffer), dtype, first, row_bytes); }});
  });
}

// The first `panels` of a source, which lie side by side in the file and apart in memory.
void Loader::add_spread_panels(const InputFile& file, const MatrixSource& s, const MatrixTarget& t, int64_t panels) {
  const auto bytes = static_cast<int64_t>(panel_bytes(t.dtype, t.in_features));
  auto* matrix = static_cast<std::byte*>(t.buffer->data()) + t.index * num_panels(t.out_features) * bytes;
  const int64_t to = t.row_offset / kPanel, step = std::max<int64_t>(1, kTileBytes / bytes);
  for (int64_t first = 0; first < panels; first += step) {
    const int64_t end = std::min(first + step, panels);
    const Places places = places_of(t, to + first, to + end);
    jobs_.push_back({matrix + places.first * bytes, matrix + places.end * bytes, [=, &file, &s, &t](std::byte*) {
                       std::vector<std::byte*> places;
                       for (int64_t p = first; p < end; ++p) places.push_back(matrix + panel_place(t, to + p) * bytes);
                       file.read_blocks(places, s.offset + first * bytes, bytes);
                     }});
  }
}

// Panels that lie packed in the file. A last one that other rows may share, or all when they begin inside a panel, are
// copied lane by lane.
void Loader::add_panels(const MatrixSource& s, const MatrixTarget& t) {
  if (s.dtype != t.dtype || s.cols != t.in_features)
    fail_arg("panels of " + std::string(name_of(s.dtype)) + " x " + std::to_string(s.cols) +
             " cannot become part of a matrix of " + std::string(name_of(t.dtype)) + " x " +
             std::to_string(t.in_features));
  const auto bytes = static_cast<int64_t>(panel_bytes(s.dtype, s.cols)), panels = num_panels(s.rows);
  if (panels * bytes == 0) return;
  const InputFile& file =
      open(s.path, static_cast<double>(s.offset) + static_cast<double>(panels) * static_cast<double>(bytes));
  auto* matrix = static_cast<std::byte*>(t.buffer->data()) + t.index * num_panels(t.out_features) * bytes;
  const int lane = static_cast<int>(t.row_offset % kPanel);
  const int64_t first = t.row_offset / kPanel, whole = lane == 0 ? s.rows / kPanel : 0;
  if (is_interleaved(t.layout, t.out_features))
    add_spread_panels(file, s, t, whole);
  else
    add_copy(file, s.offset, matrix + first * bytes, static_cast<size_t>(whole * bytes));
  for (int64_t p = whole; p < panels; ++p) {
    const int lanes = static_cast<int>(std::min<int64_t>(kPanel, s.rows - p * kPanel));
    const int here = std::min(lanes, kPanel - lane);
    const int64_t end = first + p + (lanes > here ? 2 : 1);
    const Places places = places_of(t, first + p, end);
    jobs_.push_back({matrix + places.first * bytes, matrix + places.end * bytes, [=, &file, &s, &t](std::byte*) {
                       std::vector<std::byte> read(bytes);
                       file.read(read.data(), s.offset + p * bytes, bytes);
                       const auto copy = [&](LaneCopy lanes_of, int64_t panel) {
                         copy_lanes(s.dtype, num_groups(s.dtype, s.cols), read.data(), lanes_of,
                                    matrix + panel_place(t, panel) * bytes);
                       };
                       copy({0, here, lane}, first + p);
                       if (lanes > here) copy({here, lanes - here, 0}, first + p + 1);
                     }});
  }
}

// What begins in one large page is one thread's work: two that touch a new page at once would both zero it.
void Loader::run(Cpu& cpu) {
  std::vector<size_t> groups;
  for (size_t i = 0; i < jobs_.size(); ++i)
    if (i == 0 || jobs_[i].page() != jobs_[i - 1].page()) groups.push_back(i);
  groups.push_back(jobs_.size());
  cpu.parallel_for(static_cast<int64_t>(groups.size()) - 1, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t g = first; g < last; ++g)
      run({jobs_.data() + groups[g], jobs_.data() + groups[g + 1]}, cpu.scratch<std::byte>(thread, kTileBytes));
  });
}

void Loader::run(std::span<const Job> group, std::byte* buffer) const {
  const auto by_end = [](const Job& a, const Job& b) { return a.end < b.end; };
  touch_large_pages(group[0].begin, std::max_element(group.begin(), group.end(), by_end)->end);
  for (const Job& job : group) {
    if (stop_.load(std::memory_order_relaxed)) throw Error("ABORTED", "Loading was stopped.");
    job.load(buffer);
  }
}

}  // namespace

void load_weights(Cpu& cpu, std::span<const LoadPart> parts, const std::atomic<bool>& stop) {
  Loader loader(stop);
  for (const LoadPart& part : parts) {
    if (const auto* matrix = std::get_if<MatrixTarget>(&part.target)) {
      loader.add_matrix(part.source, *matrix);
    } else {
      const auto& rows = std::get<RowsTarget>(part.target);
      loader.add_rows(part.source, static_cast<std::byte*>(rows.buffer->data()) + rows.offset, rows.dtype);
    }
  }
  loader.run(cpu);
}

void load_rows(Cpu& cpu, const MatrixSource& source, void* to, DType dtype, const std::atomic<bool>& stop) {
  Loader loader(stop);
  loader.add_rows(source, static_cast<std::byte*>(to), dtype);
  loader.run(cpu);
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
