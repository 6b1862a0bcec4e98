// router_logits = x weight^T in f32, then moe_gating of them: softmax over all experts, the top_k by probability, ties
// to the lowest index, weights as they are (spec 3.6 and 4.1). One op, because a token's logits fit where they are
// made.
#pragma once

#include "program/op.h"

namespace openmoe {

struct MoeRouter {
  In x;                // [num_tokens, hidden_size]
  In weight;           // [num_experts, hidden_size]
  Out router_logits;   // [num_tokens, num_experts]
  Out expert_ids;      // [num_tokens, top_k]  best first
  Out expert_weights;  // [num_tokens, top_k]
  int num_tokens, num_experts, top_k, hidden_size;
};

inline constexpr Field kMoeRouterFields[] = {
    FIELD(MoeRouter, x, "f32[num_tokens, hidden_size]"),
    FIELD(MoeRouter, weight, "f32[num_experts, hidden_size]"),
    FIELD(MoeRouter, router_logits, "f32[num_tokens, num_experts]"),
    FIELD(MoeRouter, expert_ids, "i32[num_tokens, top_k]"),
    FIELD(MoeRouter, expert_weights, "f32[num_tokens, top_k]"),
    FIELD(MoeRouter, num_tokens),
    FIELD(MoeRouter, num_experts),
    FIELD(MoeRouter, top_k),
    FIELD(MoeRouter, hidden_size),
};

}  // namespace openmoe
