// launch   one item per thread at a time: up to 96 rows of one expert times some panels of a, b and up of the same
//          features (matmul/panel_items.h)
// traffic  the weights of every expert that has rows, once per 96 of its rows; a, b and up themselves stay in cache
// why      panels of 32 features belong to one of the three only where intermediate_size is a multiple of 32, as in
// every
//          released model; else a span of rows goes through grouped_gemm and then through the activation. Bits are
//          those of grouped_gemm and swiglu: an output is one chain over k, whatever it is computed with.
#include "ops/grouped_gemm_swiglu.h"

#include <algorithm>
#include <cstring>

#include "device/cpu.h"
#include "support/expert_groups.h"
#include "support/gated.h"

namespace openmoe::OPENMOE_ISA {

static void whole_panels(const Matmul& m, std::vector<RowGroup>& groups, int64_t width, Cpu& cpu) {
  const PanelProduct product(m, cpu);
  const int64_t units = width / kPanel;
  for_items(product, groups, units, 3, cpu, [&](const Item& item, int thread) {
    const int64_t size = item.rows * kPanel;
    float* sums = cpu.scratch<float>(thread, 3 * size);
    for (int64_t unit = item.first; unit < item.end; ++unit) {
      product(item, 3 * unit, 3 * unit + 3, 3 * units, sums, thread);
      for (int64_t r = 0; r < item.rows; ++r) {
        const float* a = sums + r * kPanel;
        gated(a, a + size, a + 2 * size, kPanel, m.out + (item.first_row + r) * width + unit * kPanel);
      }
    }
  });
}

constexpr int64_t kSpanRows = 768;  // a workspace for whole prompts would take a gigabyte

// The next groups of at most kSpanRows rows, cut from the front of `groups`.
static std::vector<RowGroup> take_span(std::vector<RowGroup>& groups) {
  std::vector<RowGroup> span;
  int64_t rows = 0;
  while (!groups.empty() && rows < kSpanRows) {
    RowGroup& next = groups.front();
    if (!span.empty() && rows + next.num_rows > kSpanRows) break;
    RowGroup part = next;
    part.num_rows = std::min(next.num_rows, kSpanRows);
    rows += part.num_rows;
    span.push_back(part);
    next.first_row += part.num_rows, next.num_rows -= part.num_rows;
    if (next.num_rows == 0) groups.erase(groups.begin());
  }
  return span;
}

static void spans_of_rows(const Matmul& m, std::vector<RowGroup>& groups, int64_t width, Cpu& cpu) {
  auto* gate_up = cpu.workspace<float>(std::min(m.num_rows, kSpanRows) * 3 * width);
  while (!groups.empty()) {
    std::vector<RowGroup> span = take_span(groups);
    const int64_t first = span.front().first_row, rows = span.back().first_row + span.back().num_rows - first;
    for (RowGroup& group : span) group.first_row -= first;
    Matmul part = m;
    part.x += first * m.in_features, part.out = gate_up, part.num_rows = rows;
    matmul(part, std::move(span), cpu);
    cpu.parallel_for(rows, rows_per_chunk(3 * width), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const float* a = gate_up + r * 3 * width;
        gated(a, a + width, a + 2 * width, width, m.out + (first + r) * width);
      }
    });
  }
}

void grouped_gemm_swiglu(const GroupedGemmSwiglu& a, Cpu& cpu) {
  const int32_t* offsets = a.expert_offsets.as<int32_t>();
  const int64_t width = a.intermediate_size;
  const size_t matrix_bytes = panel_matrix_bytes(a.weight.dtype, 1, 3 * width, a.in_features);
  auto groups = expert_groups(offsets, a.num_experts, a.num_rows, a.weight.as<std::byte>(), matrix_bytes);
  const int64_t used = offsets[a.num_experts];
  const Matmul m{.x = a.x.as<float>(),
                 .weight_dtype = a.weight.dtype,
                 .residual = nullptr,
                 .out = a.out.as<float>(),
                 .num_rows = used,
                 .in_features = a.in_features,
                 .out_features = 3 * width};
  is_interleaved(MatrixLayout::gate_up, 3 * width) ? whole_panels(m, groups, width, cpu)
                                                   : spans_of_rows(m, groups, width, cpu);
  std::memset(a.out.as<std::byte>() + used * width * sizeof(float), 0, (a.num_rows - used) * width * sizeof(float));
}

}  // namespace openmoe::OPENMOE_ISA
