// Rotary position embedding, half-rotation form (spec 3.4). For each head, j < head_dim/2 and p = positions[t]:
// out[j]      = x[j] * cos[p, j] - x[j + d/2] * sin[p, j]
// out[j + d/2] = x[j + d/2] * cos[p, j] + x[j] * sin[p, j]
// A row of the table is the head_dim/2 cosines, then the head_dim/2 sines (lib/ops/rope.ts builds it).
#pragma once

#include "program/op.h"

namespace openmoe {

struct Rope {
  In x;          // [num_tokens, num_heads*head_dim]
  In positions;  // [num_tokens]  absolute, from 0
  In table;      // [max_positions, head_dim]  cos | sin
  Out out;       // [num_tokens, num_heads*head_dim]
  int num_tokens, num_heads, head_dim, max_positions;
};

inline constexpr Field kRopeFields[] = {
    FIELD(Rope, x, "f32[num_tokens, num_heads*head_dim]"),
    FIELD(Rope, positions, "i32[num_tokens]"),
    FIELD(Rope, table, "f32[max_positions, head_dim]"),
    FIELD(Rope, out, "f32[num_tokens, num_heads*head_dim]"),
    FIELD(Rope, num_tokens),
    FIELD(Rope, num_heads),
    FIELD(Rope, head_dim),
    FIELD(Rope, max_positions),
};

}  // namespace openmoe
