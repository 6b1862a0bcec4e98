// Where each choice goes (spec 4.3-4.5). Within a capacity group every first choice is ranked before any second choice,
// each in token order; rank >= capacity drops the choice. Kept choices get rows sorted by expert, then group, then
// rank.
#pragma once

#include "program/op.h"

namespace openmoe {

struct MoeRouting {
  In expert_ids;       // [num_tokens, top_k]
  In group_offsets;    // [num_groups+1]  tokens of each capacity group, exclusive
  In capacity;         // [num_groups]  rows an expert may take; negative: no limit
  Out expert_offsets;  // [num_experts+1]  exclusive; expert e owns rows [o[e], o[e+1])
  Out row_id_map;      // [num_tokens, top_k]  row of each choice, -1 = dropped
  Out rank;            // [num_tokens, top_k]  before dropping
  int num_tokens, top_k, num_groups, num_experts;
};

inline constexpr Field kMoeRoutingFields[] = {
    FIELD(MoeRouting, expert_ids, "i32[num_tokens, top_k]"),
    FIELD(MoeRouting, group_offsets, "i32[num_groups+1]"),
    FIELD(MoeRouting, capacity, "i32[num_groups]"),
    FIELD(MoeRouting, expert_offsets, "i32[num_experts+1]"),
    FIELD(MoeRouting, row_id_map, "i32[num_tokens, top_k]"),
    FIELD(MoeRouting, rank, "i32[num_tokens, top_k]"),
    FIELD(MoeRouting, num_tokens),
    FIELD(MoeRouting, top_k),
    FIELD(MoeRouting, num_groups),
    FIELD(MoeRouting, num_experts),
};

}  // namespace openmoe
