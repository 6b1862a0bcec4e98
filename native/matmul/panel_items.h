// How a matrix product over packed panels (matmul/panel.h) is cut into work items: some rows of a group times some
// panels of its matrix, small enough to be claimed one by one by whichever thread is free.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "device/cpu.h"
#include "matmul/panel.h"
#include "program/op.h"

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

// Bytes of weights of an item. Many rows are bound by arithmetic; few by memory, and then the tail of a product is the
// last item of the slower thread: a small part of what a thread has, but worth a claim.
inline constexpr int64_t kItemBytes = 64 << 10, kLeastItemBytes = 16 << 10, kItemsPerThread = 16, kFewRows = 12;

// Items are numbered group by group, and in a group units first: neighbours read one stream, and items of the same
// units, which are then warm in the caches, follow each other.
class Items {
 public:
  // Matrices of `units` of `unit_bytes` each: panels, or panels that belong together. An item is at least
  // least(num_rows) of them.
  template <class L>
  Items(const std::vector<RowGroup>& groups, int64_t units, int64_t unit_bytes, L&& least, int num_threads)
      : groups_(groups), units_(units), first_{0} {
    const int64_t all = static_cast<int64_t>(groups.size()) * units * unit_bytes;
    const int64_t few = std::clamp(all / (kItemsPerThread * num_threads), kLeastItemBytes, kItemBytes);
    for (const RowGroup& g : groups) {
      const int64_t bytes = g.num_rows > kFewRows ? kItemBytes : few;
      const int64_t per_item = std::max<int64_t>(least(g.num_rows), bytes / std::max<int64_t>(unit_bytes, 1));
      first_.push_back(first_.back() + (units + per_item - 1) / per_item * parts(g));
    }
  }

  int64_t count() const { return first_.back(); }

  Item operator[](int64_t i) const {
    const auto group = std::upper_bound(first_.begin(), first_.end(), i) - first_.begin() - 1;
    const RowGroup& g = groups_[group];
    const int64_t blocks = (first_[group + 1] - first_[group]) / parts(g);
    const int64_t block = (i - first_[group]) / parts(g), part = (i - first_[group]) % parts(g);
    const int64_t row = g.num_rows * part / parts(g), end_row = g.num_rows * (part + 1) / parts(g);
    return {g.weight, g.first_row + row, end_row - row, units_ * block / blocks, units_ * (block + 1) / blocks};
  }

 private:
  static int64_t parts(const RowGroup& g) { return (g.num_rows + kItemRows - 1) / kItemRows; }

  const std::vector<RowGroup>& groups_;
  const int64_t units_;
  std::vector<int64_t> first_;  // item of each group
};

// body(item, thread) for every item, on all threads, each after prepare(thread). Groups without rows must be left out.
template <class L, class P, class F>
void for_items(const std::vector<RowGroup>& groups, int64_t units, size_t unit_bytes, L&& least, Cpu& cpu, P&& prepare,
               F&& body) {
  const Items items(groups, units, static_cast<int64_t>(unit_bytes), least, cpu.num_threads());
  cpu.parallel_for(items.count(), 1, prepare, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) body(items[i], thread);
  });
}

}  // namespace openmoe::OPENMOE_ISA
