// launch   one token per chunk of parallel_for: its logits, then its choice while they are in L1
// traffic  x once, the router's num_experts rows from cache for every token; bound by the multiply-adds
// why      a logit is the sum of kLanes chains over k, reduced in one order: its bits depend on nothing but its row.
//          Four experts at a time, so that a vector of x is loaded once for four multiply-adds.
#include "ops/moe_router.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/top_k_softmax.h"

namespace openmoe::OPENMOE_ISA {

// Logits of `Experts` neighbouring experts of one token.
template <int Experts>
static void dot_rows(const float* x, const float* weight, int64_t hidden_size, float* logits) {
  Vec sum[Experts];
  for (int e = 0; e < Experts; ++e) sum[e] = zero();
  for_vectors(hidden_size, [&](int64_t k, auto lanes) {
    const Vec xk = load(x + k, lanes);
    for (int e = 0; e < Experts; ++e) sum[e] = fma(xk, load(weight + e * hidden_size + k, lanes), sum[e]);
  });
  for (int e = 0; e < Experts; ++e) logits[e] = reduce_add(sum[e]);
}

void moe_router(const MoeRouter& a, Cpu& cpu) {
  if (a.top_k < 1 || a.top_k > a.num_experts)
    fail_arg("top_k is " + std::to_string(a.top_k) + ", expected 1 to num_experts = " + std::to_string(a.num_experts));
  const int64_t grain = rows_per_chunk(int64_t{a.num_experts} * a.hidden_size);
  cpu.parallel_for(a.num_tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = a.x.as<float>() + t * a.hidden_size;
      const float* weight = a.weight.as<float>();
      float* logits = a.router_logits.as<float>() + t * a.num_experts;
      int e = 0;
      for (; e + 4 <= a.num_experts; e += 4)
        dot_rows<4>(x, weight + e * int64_t{a.hidden_size}, a.hidden_size, logits + e);
      for (; e < a.num_experts; ++e) dot_rows<1>(x, weight + e * int64_t{a.hidden_size}, a.hidden_size, logits + e);
      top_k_softmax(logits, a.num_experts, a.top_k, a.expert_ids.as<int32_t>() + t * a.top_k,
                    a.expert_weights.as<float>() + t * a.top_k);
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
