// launch   a warp per token, 8 to a block
// traffic  num_experts * 4 bytes in, top_k * 8 bytes out per token; below a thousand tokens it is all latency
// why      an expert or two per lane, so a row is read once and everything else is shuffles (gpu/top_k_softmax.h)
#include "ops/moe_gating.h"

#include "gpu/stream.h"
#include "gpu/tile_image.h"
#include "gpu/top_k_softmax.h"

namespace openmoe::gpu {

namespace {

constexpr int kWarps = 8;

GPU_KERNEL(kWarps* kWarp, 2) void moe_gating_kernel(MoeGating a) {
  launch_wait();
  const int64_t token = block_id() * kWarps + warp_id();
  if (token >= a.num_tokens) return;
  const float* logits = a.router_logits.as<float>() + token * a.num_experts;
  top_k_softmax([&](int e) { return load(logits + e); }, a.num_experts, a.top_k,
                a.expert_ids.as<int32_t>() + token * a.top_k, a.expert_weights.as<float>() + token * a.top_k);
}

}  // namespace

void moe_gating(const MoeGating& args, Stream& stream) {
  if (args.top_k < 1 || args.top_k > args.num_experts) return;  // refused while recording
  stream.launch({"moe_gating", div_up(args.num_tokens, kWarps), kWarps * kWarp, 0, true}, moe_gating_kernel, args);
}

}  // namespace openmoe::gpu
