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
  int64_t first_item = 0;  // filled in by for_items
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

// A matrix is cut into `units` of `unit_bytes` each: panels, or panels that belong together. body(item, thread) for
// every item, on all threads. Groups without rows must be left out.
template <class F>
void for_items(std::vector<RowGroup>& groups, int64_t units, size_t unit_bytes, Cpu& cpu, F&& body) {
  // About 64 KiB of weights an item: claiming one costs nothing beside it, and the last one is soon over.
  const int64_t chunk = std::max<int64_t>(1, 65536 / std::max<int64_t>(unit_bytes, 1));
  const int64_t chunks = (units + chunk - 1) / chunk;
  int64_t items = 0;
  for (RowGroup& g : groups) {
    g.first_item = items;
    items += (g.num_rows + kItemRows - 1) / kItemRows * chunks;
  }
  cpu.parallel_for(items, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const RowGroup& g = *(std::upper_bound(groups.begin(), groups.end(), i,
                                             [](int64_t item, const RowGroup& g) { return item < g.first_item; }) -
                            1);
      // Neighbouring items share panels, which are then warm in the caches.
      const int64_t parts = (g.num_rows + kItemRows - 1) / kItemRows, part = (i - g.first_item) % parts;
      const int64_t first = (i - g.first_item) / parts * chunk;
      const int64_t first_row = g.num_rows * part / parts, end_row = g.num_rows * (part + 1) / parts;
      body(Item{.weight = g.weight,
                .first_row = g.first_row + first_row,
                .rows = end_row - first_row,
                .first = first,
                .end = std::min(first + chunk, units)},
           thread);
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
