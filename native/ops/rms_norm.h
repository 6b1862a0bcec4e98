// out[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps), mean and scaling in f32 (spec 3.1).
#pragma once

#include "program/op.h"

namespace openmoe {

struct RmsNorm {
  In x;       // [num_tokens, hidden_size]
  In weight;  // [hidden_size]
  Out out;    // [num_tokens, hidden_size]
  int num_tokens, hidden_size;
  float eps;
};

inline constexpr Field kRmsNormFields[] = {
    FIELD(RmsNorm, x, "f32[num_tokens, hidden_size]"),
    FIELD(RmsNorm, weight, "f32[hidden_size]"),
    FIELD(RmsNorm, out, "f32[num_tokens, hidden_size]"),
    FIELD(RmsNorm, num_tokens),
    FIELD(RmsNorm, hidden_size),
    FIELD(RmsNorm, eps),
};

}  // namespace openmoe
