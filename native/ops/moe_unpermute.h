// out[t] = x[t] + sum over k of expert_weights[t, k] * permuted[row_id_map[t, k]], summed in the order of k, x last;
// without x the sum alone. Copies dropped by capacity (row -1) add nothing (spec 4.3).
#pragma once

#include "program/op.h"

namespace openmoe {

struct MoeUnpermute {
  PanelIn permuted;   // [num_permuted, hidden_size]  expert outputs, grouped by expert
  In row_id_map;      // [num_tokens, top_k]
  In expert_weights;  // [num_tokens, top_k]
  In expert_offsets;  // [num_experts+1]
  In x;               // [num_tokens, hidden_size]  the residual stream, optional
  Out out;            // [num_tokens, hidden_size]
  int num_permuted, num_tokens, top_k, num_experts, hidden_size;
};

inline constexpr Field kMoeUnpermuteFields[] = {
    FIELD(MoeUnpermute, permuted, "panel[num_permuted, num_experts, hidden_size]"),
    FIELD(MoeUnpermute, row_id_map, "i32[num_tokens, top_k]"),
    FIELD(MoeUnpermute, expert_weights, "f32[num_tokens, top_k]"),
    FIELD(MoeUnpermute, expert_offsets, "i32[num_experts+1]"),
    FIELD(MoeUnpermute, x, "f32[num_tokens, hidden_size]?"),
    FIELD(MoeUnpermute, out, "f32[num_tokens, hidden_size]"),
    FIELD(MoeUnpermute, num_permuted),
    FIELD(MoeUnpermute, num_tokens),
    FIELD(MoeUnpermute, top_k),
    FIELD(MoeUnpermute, num_experts),
    FIELD(MoeUnpermute, hidden_size),
};

}  // namespace openmoe
