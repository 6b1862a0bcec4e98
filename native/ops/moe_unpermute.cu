// launch   a warp per token, or a block where tokens are few; a lane moves 8 neighbouring features
// traffic  top_k * 2 * hidden_size bytes of the panel in, 4 * hidden_size out, as many in again with a residual; memory
//          bound from a thousand tokens on
// why      gather, not scatter: each row of out is written once, so no atomics and one order of summation, choice 1
//          before choice 2 before the residual
#include "ops/moe_unpermute.h"

#include "gpu/panel_rows.h"
#include "gpu/stream.h"
#include "gpu/vector.h"

namespace openmoe::gpu {

namespace {

// sum += weight * the 8 bf16 of a chunk
GPU_DEVICE void add_chunk(float (&low)[4], float (&high)[4], float weight, const Vec16& chunk) {
  GPU_UNROLL for (int j = 0; j < 4; ++j) {
    float (&sum)[4] = j < 2 ? low : high;
    sum[j % 2 * 2] = fma(weight, float_of(chunk.word[j] << 16), sum[j % 2 * 2]);
    sum[j % 2 * 2 + 1] = fma(weight, float_of(chunk.word[j] & 0xffff0000u), sum[j % 2 * 2 + 1]);
  }
}

GPU_DEVICE void add_residual(float (&sum)[4], const float* x, int col, int length) {
  float residual[4];
  load_row4(residual, x, col, length);
  GPU_UNROLL for (int j = 0; j < 4; ++j) sum[j] = residual[j] + sum[j];
}

GPU_KERNEL(kRowWarps* kWarp, 2) void moe_unpermute_kernel(MoeUnpermute a, int32_t* fault, int token_warps) {
  launch_wait();
  const ExpertTable table(shared_memory(), a.num_experts);
  fill_expert_table(table, a.expert_offsets.as<int32_t>(), a.num_experts, a.num_permuted, kAnyTiles);

  const int64_t token = block_id() * (kRowWarps / token_warps) + warp_id() / token_warps;
  if (token >= a.num_tokens) return;
  const int64_t rows = panel_rows(a.num_permuted, a.num_experts);
  const int first = (warp_id() % token_warps * kWarp + lane_id()) * kRowChunk;
  for (int col = first; col < a.hidden_size; col += token_warps * kWarp * kRowChunk) {
    float low[4] = {}, high[4] = {};
    for (int k = 0; k < a.top_k; ++k) {
      const int64_t choice = token * a.top_k + k;
      const int row = load(a.row_id_map.as<int32_t>() + choice);
      if (row < -1 || row >= a.num_permuted) store(fault, 1);
      const int64_t at = panel_row(table, a.num_experts, row);
      if (at < 0) continue;
      const auto* chunk = a.permuted.as<std::byte>() + panel_offset(rows, at, col);
      add_chunk(low, high, load(a.expert_weights.as<float>() + choice), load(reinterpret_cast<const Vec16*>(chunk)));
    }
    if (a.x) {
      add_residual(low, a.x.as<float>() + token * a.hidden_size, col, a.hidden_size);
      add_residual(high, a.x.as<float>() + token * a.hidden_size, col + 4, a.hidden_size);
    }
    store_row4(a.out.as<float>() + token * a.hidden_size, col, a.hidden_size, low);
    store_row4(a.out.as<float>() + token * a.hidden_size, col + 4, a.hidden_size, high);
  }
}

}  // namespace

void moe_unpermute(const MoeUnpermute& args, Stream& stream) {
  const int token_warps = warps_per_token(args.num_tokens, stream.num_sms());
  stream.launch({"moe_unpermute", div_up(args.num_tokens, kRowWarps / token_warps), kRowWarps * kWarp,
                 ExpertTable::bytes(args.num_experts), true},
                moe_unpermute_kernel, args, stream.fault(), token_warps);
}

}  // namespace openmoe::gpu
