// launch   a span of rows at a time: grouped_gemm into a workspace (support/panel_matmul.h), then one row per chunk
// traffic  the weights of every expert that has rows, once per span they have rows in; the workspace stays in cache
//          where rows are few
// why      spans end between experts unless one alone is longer, and are short enough that 3 * intermediate_size
// numbers
//          a row need no memory worth mentioning: whole prompts would take a gigabyte. Bits are those of grouped_gemm
//          and swiglu: an output is one chain over k, whatever rows it is computed with.
#include "ops/grouped_gemm_swiglu.h"

#include <algorithm>
#include <cstring>

#include "device/cpu.h"
#include "support/expert_groups.h"
#include "support/gated_row.h"

namespace openmoe::OPENMOE_ISA {

constexpr int64_t kSpanRows = 768;  // 8 items of the matrix engine

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

void grouped_gemm_swiglu(const GroupedGemmSwiglu& a, Cpu& cpu) {
  const int32_t* offsets = a.expert_offsets.as<int32_t>();
  const int64_t width = a.intermediate_size, used = std::clamp(offsets[a.num_experts], 0, a.num_rows);
  const size_t matrix_bytes = panel_matrix_bytes(a.weight.dtype, 1, 3 * width, a.in_features);
  auto groups = expert_groups(offsets, a.num_experts, a.num_rows, a.weight.as<std::byte>(), matrix_bytes);
  auto* gate_up = cpu.workspace<float>(std::min(used, kSpanRows) * 3 * width);
  while (!groups.empty()) {
    std::vector<RowGroup> span = take_span(groups);
    const int64_t first = span.front().first_row, rows = span.back().first_row + span.back().num_rows - first;
    for (RowGroup& group : span) group.first_row -= first;
    const Matmul m{.x = a.x.as<float>() + first * a.in_features,
                   .weight_dtype = a.weight.dtype,
                   .out = gate_up,
                   .num_rows = rows,
                   .in_features = a.in_features,
                   .out_features = 3 * width};
    matmul(m, std::move(span), cpu);
    cpu.parallel_for(rows, rows_per_chunk(3 * width), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r)
        gated_row(gate_up + r * 3 * width, width, a.out.as<float>() + (first + r) * width);
    });
  }
  std::memset(a.out.as<float>() + used * width, 0, (a.num_rows - used) * width * sizeof(float));
}

}  // namespace openmoe::OPENMOE_ISA
