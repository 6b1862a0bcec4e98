// Softmax over a row of router logits and the choice of its top k, shared by moe_gating and moe_router.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// NaN loses to every number, so that it cannot hide a real expert; the row's weights still show it.
inline float sort_key(float logit) { return std::isnan(logit) ? -kInfinity : logit; }

// The best expert behind `last` in the order (logit falling, id rising); last = -1 starts. One exists while fewer than
// num_experts were taken, so ids are valid and distinct whatever the logits hold.
inline int next_best(const float* logits, int num_experts, int last) {
  const float last_key = last < 0 ? kInfinity : sort_key(logits[last]);
  int best = -1;
  for (int e = 0; e < num_experts; ++e) {
    const float key = sort_key(logits[e]);
    if (last >= 0 && (key > last_key || (key == last_key && e <= last))) continue;
    if (best < 0 || key > sort_key(logits[best])) best = e;
  }
  return best;
}

// sum of exp(logits - max).
inline float sum_of_exp(const float* logits, int num_experts, float max) {
  Vec sum = zero();
  for_vectors(num_experts, [&](int64_t e, auto lanes) {
    float terms[kLanes] = {};  // lanes past the end stay zero: exp of what a tail load fills in is not
    store(terms, exp(sub(load(logits + e, lanes), set1(max))), lanes);
    sum = add(sum, load(terms));
  });
  return reduce_add(sum);
}

inline float exp_of(float x) {
  float y[kLanes];
  store(y, exp(set1(x)));
  return y[0];
}

// The choice compares logits, not probabilities: softmax keeps their order, and so a choice depends neither on an
// instruction set's exponential nor on two probabilities that round to one float.
inline void top_k_softmax(const float* logits, int num_experts, int top_k, int32_t* ids, float* weights) {
  for (int k = 0; k < top_k; ++k) ids[k] = next_best(logits, num_experts, k == 0 ? -1 : ids[k - 1]);
  const float max = logits[ids[0]];
  const float sum = sum_of_exp(logits, num_experts, max);
  for (int k = 0; k < top_k; ++k) weights[k] = exp_of(logits[ids[k]] - max) / sum;
}

}  // namespace openmoe::OPENMOE_ISA
