// out[r] = a * silu(b) * up with [a | b | up] = x[r] weight[e]^T, for the rows r of expert e (swiglu after
// grouped_gemm, spec 3.5 and 4.5). Experts may be empty; rows past the last expert's are zero.
#pragma once

#include "program/op.h"

namespace openmoe {

struct GroupedGemmSwiglu {
  PanelIn x;          // [num_rows, in_features]  grouped by expert
  Matrix weight;      // [num_experts, 3*intermediate_size, in_features]  rows a | b | up
  In expert_offsets;  // [num_experts+1]
  PanelOut out;       // [num_rows, intermediate_size]
  int num_rows, num_experts, intermediate_size, in_features;
};

inline constexpr Field kGroupedGemmSwigluFields[] = {
    FIELD(GroupedGemmSwiglu, x, "panel[num_rows, num_experts, in_features]"),
    FIELD(GroupedGemmSwiglu, weight, "gate_up[num_experts, 3*intermediate_size, in_features]"),
    FIELD(GroupedGemmSwiglu, expert_offsets, "i32[num_experts+1]"),
    FIELD(GroupedGemmSwiglu, out, "panel[num_rows, num_experts, intermediate_size]"),
    FIELD(GroupedGemmSwiglu, num_rows),
    FIELD(GroupedGemmSwiglu, num_experts),
    FIELD(GroupedGemmSwiglu, intermediate_size),
    FIELD(GroupedGemmSwiglu, in_features),
};

}  // namespace openmoe
