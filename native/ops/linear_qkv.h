// q, k, v = x W_q^T, x W_k^T, x W_v^T (spec 3.2), each as `linear` has it: three products of the same rows as one.
#pragma once

#include "program/op.h"

namespace openmoe {

struct LinearQkv {
  In x;             // [num_tokens, in_features]
  Matrix q_weight;  // [1, q_features, in_features]
  Matrix k_weight;  // [1, kv_features, in_features]; all three have one dtype
  Matrix v_weight;
  Out q;  // [num_tokens, q_features]
  Out k;  // [num_tokens, kv_features]
  Out v;
  int num_tokens, q_features, kv_features, in_features;
};

inline constexpr Field kLinearQkvFields[] = {
    FIELD(LinearQkv, x, "f32[num_tokens, in_features]"),
    FIELD(LinearQkv, q_weight, "matrix[1, q_features, in_features]"),
    FIELD(LinearQkv, k_weight, "matrix[1, kv_features, in_features]"),
    FIELD(LinearQkv, v_weight, "matrix[1, kv_features, in_features]"),
    FIELD(LinearQkv, q, "f32[num_tokens, q_features]"),
    FIELD(LinearQkv, k, "f32[num_tokens, kv_features]"),
    FIELD(LinearQkv, v, "f32[num_tokens, kv_features]"),
    FIELD(LinearQkv, num_tokens),
    FIELD(LinearQkv, q_features),
    FIELD(LinearQkv, kv_features),
    FIELD(LinearQkv, in_features),
};

}  // namespace openmoe
