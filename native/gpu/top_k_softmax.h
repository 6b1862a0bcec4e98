// Softmax over the router logits of one token and the choice of its top k by a warp, shared by moe_gating and
// moe_router.
#pragma once

#include "gpu/gpu.h"

namespace openmoe::gpu {

// The best of some experts in the order (logit falling, id rising).
struct Choice {
  float key;
  int expert;  // -1: none
};

GPU_DEVICE bool is_before(const Choice& a, const Choice& b) {
  if (a.expert < 0 || b.expert < 0) return a.expert >= 0;
  return a.key > b.key || (a.key == b.key && a.expert < b.expert);
}

// NaN loses to every number, so that it cannot hide a real expert; the token's weights still show it.
GPU_DEVICE float sort_key(float logit) { return logit == logit ? logit : -__builtin_huge_valf(); }

// The choice right after `last`, the same in every lane.
template <class Logit>
GPU_DEVICE Choice next_best(const Logit& logit, int num_experts, const Choice& last) {
  Choice best{0, -1};
  for (int e = lane_id(); e < num_experts; e += kWarp) {
    const Choice candidate{sort_key(logit(e)), e};
    if ((last.expert < 0 || is_before(last, candidate)) && is_before(candidate, best)) best = candidate;
  }
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const Choice other{shuffle_xor(best.key, mask), shuffle_xor(best.expert, mask)};
    if (is_before(other, best)) best = other;
  }
  return best;
}

// All lanes of a warp together. `logit(e)` is a number any lane may ask for. The choice compares logits, not
// probabilities: two of those may round to one float. Sums run in one order, whatever the neighbours.
template <class Logit>
GPU_DEVICE void top_k_softmax(const Logit& logit, int num_experts, int top_k, int32_t* ids, float* weights) {
  Choice choice = next_best(logit, num_experts, Choice{0, -1});
  const float max = logit(choice.expert);
  float sum = 0;
  for (int e = lane_id(); e < num_experts; e += kWarp) sum += exp(logit(e) - max);
  for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  for (int k = 0; k < top_k; ++k) {
    if (k > 0) choice = next_best(logit, num_experts, choice);
    if (lane_id() == 0) {
      store(ids + k, choice.expert);
      store(weights + k, exp(logit(choice.expert) - max) / sum);
    }
  }
}

}  // namespace openmoe::gpu
