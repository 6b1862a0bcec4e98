// out = x weight^T, accumulated in f32 in the order of in_features (spec notation: Linear(x, W)); with a residual,
// residual + x weight^T, one more rounding.
#pragma once

#include "program/op.h"

namespace openmoe {

struct Linear {
  In x;           // [num_tokens, in_features]
  Matrix weight;  // [1, out_features, in_features]
  In residual;    // [num_tokens, out_features]
  Out out;        // [num_tokens, out_features]
  int num_tokens, out_features, in_features;
};

inline constexpr Field kLinearFields[] = {
    FIELD(Linear, x, "f32[num_tokens, in_features]"),
    FIELD(Linear, weight, "matrix[1, out_features, in_features]"),
    FIELD(Linear, residual, "f32[num_tokens, out_features]?"),
    FIELD(Linear, out, "f32[num_tokens, out_features]"),
    FIELD(Linear, num_tokens),
    FIELD(Linear, out_features),
    FIELD(Linear, in_features),
};

}  // namespace openmoe
