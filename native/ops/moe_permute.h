// permuted[row_id_map[t, k]] = x[t]. Rows that no choice maps to are zero.
#pragma once

#include "program/op.h"

namespace openmoe {

struct MoePermute {
  In x;           // [num_tokens, hidden_size]
  In row_id_map;  // [num_tokens, top_k]
  Out permuted;   // [num_tokens*top_k, hidden_size]
  int num_tokens, top_k, hidden_size;
};

inline constexpr Field kMoePermuteFields[] = {
    FIELD(MoePermute, x, "f32[num_tokens, hidden_size]"),
    FIELD(MoePermute, row_id_map, "i32[num_tokens, top_k]"),
    FIELD(MoePermute, permuted, "f32[num_tokens*top_k, hidden_size]"),
    FIELD(MoePermute, num_tokens),
    FIELD(MoePermute, top_k),
    FIELD(MoePermute, hidden_size),
};

}  // namespace openmoe
