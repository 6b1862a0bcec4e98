// out[r] = x[r] weight[e]^T for the rows r of expert e, [expert_offsets[e], expert_offsets[e+1]). Experts may be empty;
// rows past the last expert's are zero.
#pragma once

#include "program/op.h"

namespace openmoe {

struct GroupedGemm {
  PanelIn x;          // [num_rows, in_features]  grouped by expert
  Matrix weight;      // [num_experts, out_features, in_features]
  In expert_offsets;  // [num_experts+1]
  PanelOut out;       // [num_rows, out_features]
  int num_rows, num_experts, out_features, in_features;
};

inline constexpr Field kGroupedGemmFields[] = {
    FIELD(GroupedGemm, x, "panel[num_rows, num_experts, in_features]"),
    FIELD(GroupedGemm, weight, "matrix[num_experts, out_features, in_features]"),
    FIELD(GroupedGemm, expert_offsets, "i32[num_experts+1]"),
    FIELD(GroupedGemm, out, "panel[num_rows, num_experts, out_features]"),
    FIELD(GroupedGemm, num_rows),
    FIELD(GroupedGemm, num_experts),
    FIELD(GroupedGemm, out_features),
    FIELD(GroupedGemm, in_features),
};

}  // namespace openmoe
