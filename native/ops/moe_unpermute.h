// out[t] = sum over k of expert_weights[t, k] * permuted[row_id_map[t, k]]; copies dropped by capacity (row -1) add
// nothing.
#pragma once

#include "program/op.h"

namespace openmoe {

struct MoeUnpermute {
  In permuted;        // [num_permuted, hidden_size]  expert outputs, grouped by expert
  In row_id_map;      // [num_tokens, top_k]
  In expert_weights;  // [num_tokens, top_k]
  Out out;            // [num_tokens, hidden_size]
  int num_permuted, num_tokens, top_k, hidden_size;
};

inline constexpr Field kMoeUnpermuteFields[] = {
    FIELD(MoeUnpermute, permuted, "f32[num_permuted, hidden_size]"),
    FIELD(MoeUnpermute, row_id_map, "i32[num_tokens, top_k]"),
    FIELD(MoeUnpermute, expert_weights, "f32[num_tokens, top_k]"),
    FIELD(MoeUnpermute, out, "f32[num_tokens, hidden_size]"),
    FIELD(MoeUnpermute, num_permuted),
    FIELD(MoeUnpermute, num_tokens),
    FIELD(MoeUnpermute, top_k),
    FIELD(MoeUnpermute, hidden_size),
};

}  // namespace openmoe
