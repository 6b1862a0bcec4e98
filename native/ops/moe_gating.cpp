// launch   one token per chunk of parallel_for; its logits stay in L1
// traffic  num_experts * 4 bytes in, top_k * 8 bytes out per token; bound by the exponentials
// why      one row at a time: 16 or 32 experts are one or two vectors (support/top_k_softmax.h)
#include "ops/moe_gating.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/top_k_softmax.h"

namespace openmoe::OPENMOE_ISA {

void moe_gating(const MoeGating& a, Cpu& cpu) {
  if (a.top_k > a.num_experts)
    fail_arg("top_k is " + std::to_string(a.top_k) +
             ", expected at most num_experts = " + std::to_string(a.num_experts));
  if (a.top_k == 0) return;
  cpu.parallel_for(a.num_tokens, rows_per_chunk(8 * int64_t{a.num_experts}), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      top_k_softmax(a.router_logits.as<float>() + t * a.num_experts, a.num_experts, a.top_k,
                    a.expert_ids.as<int32_t>() + t * a.top_k, a.expert_weights.as<float>() + t * a.top_k);
  });
}

}  // namespace openmoe::OPENMOE_ISA
