// launch   one token per chunk of parallel_for; its logits stay in L1
// traffic  num_experts * 4 bytes in, top_k * 8 bytes out per token; bound by the exponentials
// why      the choice compares logits, not probabilities: softmax keeps their order, and so a choice depends neither on
//          an instruction set's exponential nor on two probabilities that round to one float. Equal logits have equal
//          probabilities, so "ties go to the lowest index" means the same for both.
#include "ops/moe_gating.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// NaN loses to every number, so that it cannot hide a real expert; the row's weights still show it.
float sort_key(float logit) { return std::isnan(logit) ? -kInfinity : logit; }

// The best expert behind `last` in the order (logit falling, id rising); last = -1 starts. One exists while fewer than
// num_experts were taken, so ids are valid and distinct whatever the logits hold.
int next_best(const float* logits, int num_experts, int last) {
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
float sum_of_exp(const float* logits, int num_experts, float max) {
  Vec sum = zero();
  for_vectors(num_experts, [&](int64_t e, auto lanes) {
    float terms[kLanes] = {};  // lanes past the end stay zero: exp of what a tail load fills in is not
    store(terms, exp(sub(load(logits + e, lanes), set1(max))), lanes);
    sum = add(sum, load(terms));
  });
  return reduce_add(sum);
}

float exp_of(float x) {
  float y[kLanes];
  store(y, exp(set1(x)));
  return y[0];
}

}  // namespace

void moe_gating(const MoeGating& a, Cpu& cpu) {
  if (a.top_k > a.num_experts)
    fail_arg("top_k is " + std::to_string(a.top_k) +
             ", expected at most num_experts = " + std::to_string(a.num_experts));
  if (a.top_k == 0) return;
  cpu.parallel_for(a.num_tokens, rows_per_chunk(8 * int64_t{a.num_experts}), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* logits = a.router_logits.as<float>() + t * a.num_experts;
      int32_t* ids = a.expert_ids.as<int32_t>() + t * a.top_k;
      float* weights = a.expert_weights.as<float>() + t * a.top_k;
      for (int k = 0; k < a.top_k; ++k) ids[k] = next_best(logits, a.num_experts, k == 0 ? -1 : ids[k - 1]);
      const float max = logits[ids[0]];
      const float sum = sum_of_exp(logits, a.num_experts, max);
      for (int k = 0; k < a.top_k; ++k) weights[k] = exp_of(logits[ids[k]] - max) / sum;
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
