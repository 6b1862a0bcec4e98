// launch   a block of 8 warps per 4 tokens, or per 8 where there are many; a warp makes 4 experts' logits of them
// traffic  x once; the router (262 KB at 32 experts of 2048) once per block, from L2: that bounds it up to some hundred
//          tokens, reading x above
// why      f32 multiply-adds, not tensor cores: a rounded logit flips a near tie. Lanes split k, and their sums meet in
//          one order that knows nothing of the block's size: a token's bits do not depend on its neighbours. 4 tokens
//          times 4 experts are 64 multiply-adds for 8 loads; 8 times 4 read the router half as often; more would spill
#include "ops/moe_router.h"

#include "gpu/stream.h"
#include "gpu/tile_image.h"
#include "gpu/top_k_softmax.h"
#include "gpu/vector.h"
#include "support/error.h"

namespace openmoe::gpu {

namespace {

constexpr int kWarps = 8;
constexpr int kExperts = 4;  // a warp computes at a time
constexpr int kStep = 4;     // neighbours in k a lane loads at once
constexpr int kFewTokens = 4, kManyTokens = 8;
constexpr int kMostExperts = 2048;  // whose logits of 4 tokens fit in shared memory

template <int kTokens>
GPU_DEVICE void make_logits(const MoeRouter& a, int64_t first_token, int first_expert, float* logits) {
  float sum[kTokens][kExperts] = {};
  for (int k = lane_id() * kStep; k < a.hidden_size; k += kWarp * kStep) {
    float w[kExperts][kStep];
    GPU_UNROLL for (int e = 0; e < kExperts; ++e) {
      const int expert = first_expert + e < a.num_experts ? first_expert + e : a.num_experts - 1;
      load_row4(w[e], a.weight.as<float>() + int64_t{expert} * a.hidden_size, k, a.hidden_size);
    }
    GPU_UNROLL for (int t = 0; t < kTokens; ++t) {
      const int64_t token = first_token + t < a.num_tokens ? first_token + t : a.num_tokens - 1;
      float x[kStep];
      load_row4(x, a.x.as<float>() + token * a.hidden_size, k, a.hidden_size);
      GPU_UNROLL for (int e = 0; e < kExperts; ++e) GPU_UNROLL for (int j = 0; j < kStep; ++j) sum[t][e] =
          fma(x[j], w[e][j], sum[t][e]);
    }
  }
  GPU_UNROLL for (int t = 0; t < kTokens; ++t) GPU_UNROLL for (int e = 0; e < kExperts; ++e) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) sum[t][e] += shuffle_xor(sum[t][e], mask);
    if (lane_id() == 0 && first_expert + e < a.num_experts) logits[t * a.num_experts + first_expert + e] = sum[t][e];
  }
}

template <int kTokens>
GPU_KERNEL(kWarps* kWarp, 2)
void moe_router_kernel(MoeRouter a) {
  launch_wait();
  auto* logits = reinterpret_cast<float*>(shared_memory());  // [kTokens, num_experts]
  const int64_t first_token = block_id() * kTokens;
  for (int e = warp_id() * kExperts; e < a.num_experts; e += kWarps * kExperts)
    make_logits<kTokens>(a, first_token, e, logits);
  block_sync();
  for (int t = warp_id(); t < kTokens && first_token + t < a.num_tokens; t += kWarps) {
    const int64_t token = first_token + t;
    const float* row = logits + t * a.num_experts;
    for (int e = lane_id(); e < a.num_experts; e += kWarp)
      store(a.router_logits.as<float>() + token * a.num_experts + e, row[e]);
    top_k_softmax([&](int e) { return row[e]; }, a.num_experts, a.top_k, a.expert_ids.as<int32_t>() + token * a.top_k,
                  a.expert_weights.as<float>() + token * a.top_k);
  }
}

template <int kTokens>
void launch_router(const MoeRouter& args, Stream& stream) {
  stream.launch({"moe_router", div_up(args.num_tokens, kTokens), kWarps * kWarp,
                 sizeof(float) * kTokens * args.num_experts, true},
                moe_router_kernel<kTokens>, args);
}

}  // namespace

void moe_router(const MoeRouter& args, Stream& stream) {
  if (args.num_experts > kMostExperts)
    fail_arg("num_experts is " + std::to_string(args.num_experts) + ", a GPU takes at most " +
             std::to_string(kMostExperts));
  const bool many = args.num_tokens > kFewTokens * stream.num_sms() && args.num_experts <= kMostExperts / 4;
  many ? launch_router<kManyTokens>(args, stream) : launch_router<kFewTokens>(args, stream);
}

}  // namespace openmoe::gpu
