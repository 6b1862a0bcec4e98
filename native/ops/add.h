// out = a + b: the residual stream.
#pragma once

#include "program/op.h"

namespace openmoe {

struct Add {
  In a;     // [num_tokens, hidden_size]
  In b;     // [num_tokens, hidden_size]
  Out out;  // [num_tokens, hidden_size]
  int num_tokens, hidden_size;
};

inline constexpr Field kAddFields[] = {
    FIELD(Add, a, "f32[num_tokens, hidden_size]"),
    FIELD(Add, b, "f32[num_tokens, hidden_size]"),
    FIELD(Add, out, "f32[num_tokens, hidden_size]"),
    FIELD(Add, num_tokens),
    FIELD(Add, hidden_size),
};

}  // namespace openmoe
