// How a matrix product over packed panels (support/panel.h) is cut into work items: some rows of a group times some
// panels of its matrix, small enough to be claimed one by one by whichever thread is free.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "device/cpu.h"
#include "program/op.h"
#include "support/panel.h"

namespace openmoe::OPENMOE_ISA {

// The rows of an item over a block of k (48 or 96 KiB of x) stay in L2 while its panels pass by.
inline constexpr int64_t kItemRows = 96;

// Words from one row of packed x to the next: an odd number of cache lines, so that the rows of a tile, read side by
// side, do not share a few places of L1.
constexpr int64_t spread_stride(int64_t words) { return ((words + 15) / 16 | 1) * 16; }

// Rows of x and out that share one matrix.
struct RowGroup {
  const std::byte* weight;
  int64_t first_row, num_rows;
};

struct Matmul {
  const float* x;
  DType weight_dtype;
  const float* residual;  // null, or what is added to out
  float* out;
  int64_t num_rows, in_features, out_features;
};

// Some rows of a group times units [first, end) of its matrix.
struct Item {
  const std::byte* weight;
  int64_t first_row, rows;
  int64_t first, end;
};

// Bytes of weights of an item. The least costs much more than claiming it. Few rows are bound by memory, and every item
// begins with a cold stream: long items first, short ones last, so that all threads end together.
inline constexpr int64_t kMinItemBytes = 64 << 10, kMaxItemBytes = 1 << 20, kFewRows = 12;

// Cuts matrices of `units` of `unit_bytes` each: panels, or panels that belong together.
inline std::vector<Item> cut_items(const std::vector<RowGroup>& groups, int64_t units, int64_t unit_bytes,
                                   int num_threads) {
  std::vector<Item> items;
  int64_t left = static_cast<int64_t>(groups.size()) * units * unit_bytes;
  for (const RowGroup& g : groups) {
    const int64_t parts = (g.num_rows + kItemRows - 1) / kItemRows;
    for (int64_t first = 0; first < units;) {
      const int64_t bytes =
          g.num_rows > kFewRows ? kMinItemBytes : std::clamp(left / (2 * num_threads), kMinItemBytes, kMaxItemBytes);
      const int64_t end = std::min(units, first + std::max<int64_t>(1, bytes / std::max<int64_t>(unit_bytes, 1)));
      // Neighbouring items share units, which are then warm in the caches.
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t row = g.num_rows * part / parts, end_row = g.num_rows * (part + 1) / parts;
        items.push_back({g.weight, g.first_row + row, end_row - row, first, end});
      }
      left -= (end - first) * unit_bytes;
      first = end;
    }
  }
  return items;
}

// body(item, thread) for every item, on all threads. Groups without rows must be left out.
template <class F>
void for_items(const std::vector<RowGroup>& groups, int64_t units, size_t unit_bytes, Cpu& cpu, F&& body) {
  const std::vector<Item> items = cut_items(groups, units, static_cast<int64_t>(unit_bytes), cpu.num_threads());
  cpu.parallel_for(static_cast<int64_t>(items.size()), 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) body(items[i], thread);
  });
}

}  // namespace openmoe::OPENMOE_ISA
