// Softmax over all experts in f32, then the top_k by probability; ties go to the lowest index. Weights are the
// probabilities as they are, not renormalised (spec 4.1). Ids are valid whatever the logits hold, NaN included.
#pragma once

#include "program/op.h"

namespace openmoe {

struct MoeGating {
  In router_logits;    // [num_tokens, num_experts]
  Out expert_ids;      // [num_tokens, top_k]  best first
  Out expert_weights;  // [num_tokens, top_k]
  int num_tokens, num_experts, top_k;
};

inline constexpr Field kMoeGatingFields[] = {
    FIELD(MoeGating, router_logits, "f32[num_tokens, num_experts]"),
    FIELD(MoeGating, expert_ids, "i32[num_tokens, top_k]"),
    FIELD(MoeGating, expert_weights, "f32[num_tokens, top_k]"),
    FIELD(MoeGating, num_tokens),
    FIELD(MoeGating, num_experts),
    FIELD(MoeGating, top_k),
};

}  // namespace openmoe
