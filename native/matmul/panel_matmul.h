// The matrix engine of the CPU backend: out = x W^T over packed panels (matmul/panel.h) for groups of rows, each with
// weights of its own. linear is one group, grouped_gemm one per expert.
//
// An output is one chain of multiply-adds over k, in an order that depends on nothing but the dtype: GEMV and GEMM, any
// batch and any number of threads give the same bits.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "matmul/panel_items.h"
#include "matmul/panel_product.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// body(item, thread) for every item of a product, whose units are `unit_panels` panels each.
template <class F>
void for_items(const PanelProduct& product, const std::vector<RowGroup>& groups, int64_t units, int64_t unit_panels,
               Cpu& cpu, F&& body) {
  const size_t unit_bytes = unit_panels * product.panel_bytes();
  const auto least = [&](int64_t rows) { return (product.panels_at_once(rows) + unit_panels - 1) / unit_panels; };
  for_items(groups, units, unit_bytes, least, cpu, [&](int thread) { product.prepare(thread); }, body);
}

// body(panel, sums) for every panel of an item, with the products in [row][32] sums.
template <class F>
void for_panels(const PanelProduct& product, const Item& item, int64_t limit, Cpu& cpu, int thread, F&& body) {
  const int64_t at_once = product.panels_at_once(item.rows), size = item.rows * kPanel;
  // Not straight into `out`: rows a multiple of 4 KiB apart would push each other out of L1.
  float* sums = cpu.scratch<float>(thread, at_once * size);
  for (int64_t first = item.first; first < item.end; first += at_once) {
    const int64_t end = std::min(first + at_once, item.end);
    product(item, first, end, limit, sums, thread);
    for (int64_t panel = first; panel < end; ++panel) body(panel, sums + (panel - first) * size);
  }
}

// The products of an item with a panel to where they belong, plus the residual.
inline void write_panel(const Matmul& m, const Item& item, int64_t panel, const float* sums) {
  const int64_t column = panel * kPanel, columns = std::min<int64_t>(kPanel, m.out_features - column);
  for (int64_t r = 0; r < item.rows; ++r) {
    const int64_t at = (item.first_row + r) * m.out_features + column;
    if (!m.residual)
      std::memcpy(m.out + at, sums + r * kPanel, columns * sizeof(float));
    else
      for_vectors(columns, [&](int64_t c, auto n) {
        store(m.out + at + c, add(load(m.residual + at + c, n), load(sums + r * kPanel + c, n)), n);
      });
  }
}

// Groups without rows must be left out.
inline void matmul(const Matmul& m, std::vector<RowGroup> groups, Cpu& cpu) {
  const PanelProduct product(m, cpu);
  const int64_t panels = num_panels(m.out_features);
  for_items(product, groups, panels, 1, cpu, [&](const Item& item, int thread) {
    for_panels(product, item, panels, cpu, thread,
               [&](int64_t panel, const float* sums) { write_panel(m, item, panel, sums); });
  });
}

}  // namespace openmoe::OPENMOE_ISA
