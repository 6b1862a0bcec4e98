// permuted[row_id_map[t, k]] = x[t]. The map of moe_routing() names each row below expert_offsets[num_experts] once;
// the rows past them are zero.
#pragma once

#include "program/op.h"

namespace openmoe {

struct MoePermute {
  In x;               // [num_tokens, hidden_size]
  In row_id_map;      // [num_tokens, top_k]  -1 = dropped
  In expert_offsets;  // [num_experts+1]
  PanelOut permuted;  // [num_tokens*top_k, hidden_size]
  int num_tokens, top_k, num_experts, hidden_size;
};

inline constexpr Field kMoePermuteFields[] = {
    FIELD(MoePermute, x, "f32[num_tokens, hidden_size]"),
    FIELD(MoePermute, row_id_map, "i32[num_tokens, top_k]"),
    FIELD(MoePermute, expert_offsets, "i32[num_experts+1]"),
    FIELD(MoePermute, permuted, "panel[num_tokens*top_k, num_experts, hidden_size]"),
    FIELD(MoePermute, num_tokens),
    FIELD(MoePermute, top_k),
    FIELD(MoePermute, num_experts),
    FIELD(MoePermute, hidden_size),
};

}  // namespace openmoe
