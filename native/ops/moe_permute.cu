// launch   a warp per token, or a block where tokens are few; a lane moves 8 neighbouring features
// traffic  4 * hidden_size bytes in, top_k * 2 * hidden_size out per token; memory bound from a thousand tokens on
// why      each token is read once for all its copies, and 8 lanes store the 128 contiguous bytes of a k-block's row
#include "ops/moe_permute.h"

#include "gpu/panel_rows.h"
#include "gpu/stream.h"
#include "gpu/vector.h"

namespace openmoe::gpu {

namespace {

// One block checks the offsets for all: whatever they hold, fill_expert_table() makes them safe.
GPU_DEVICE void check_offsets(const MoePermute& a, int32_t* fault) {
  const int32_t* offsets = a.expert_offsets.as<int32_t>();
  for (int e = thread_id(); e <= a.num_experts; e += num_threads()) {
    const int64_t least = e == 0 ? 0 : load(offsets + e - 1), most = e == 0 ? 0 : int64_t{a.num_tokens} * a.top_k;
    const int32_t offset = load(offsets + e);
    if (offset < least || offset > most) store(fault, 1);
  }
}

GPU_KERNEL(kRowWarps* kWarp, 2) void moe_permute_kernel(MoePermute a, int32_t* fault, int token_warps) {
  launch_wait();
  const ExpertTable table(shared_memory(), a.num_experts);
  const int num_rows = a.num_tokens * a.top_k;
  if (block_id() == 0) check_offsets(a, fault);
  fill_expert_table(table, a.expert_offsets.as<int32_t>(), a.num_experts, num_rows, kAnyTiles);

  const int64_t token = block_id() * (kRowWarps / token_warps) + warp_id() / token_warps;
  if (token >= a.num_tokens) return;
  const int64_t rows = panel_rows(num_rows, a.num_experts);
  const float* x = a.x.as<float>() + token * a.hidden_size;
  const int first = (warp_id() % token_warps * kWarp + lane_id()) * kRowChunk;
  const int padded = static_cast<int>(round_up(a.hidden_size, kBlockFeatures));
  for (int col = first; col < padded; col += token_warps * kWarp * kRowChunk) {
    float low[4], high[4];
    load_row4(low, x, col, a.hidden_size);
    load_row4(high, x, col + 4, a.hidden_size);
    const Vec16 chunk = {{pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                          pack_bf16(high[2], high[3])}};
    for (int k = 0; k < a.top_k; ++k) {
      const int row = load(a.row_id_map.as<int32_t>() + token * a.top_k + k);
      if (row < -1 || row >= num_rows) store(fault, 1);
      const int64_t at = panel_row(table, a.num_experts, row);
      if (at >= 0) store(reinterpret_cast<Vec16*>(a.permuted.as<std::byte>() + panel_offset(rows, at, col)), chunk);
    }
  }
}

}  // namespace

void moe_permute(const MoePermute& args, Stream& stream) {
  const int token_warps = warps_per_token(args.num_tokens, stream.num_sms());
  stream.launch({"moe_permute", div_up(args.num_tokens, kRowWarps / token_warps), kRowWarps * kWarp,
                 ExpertTable::bytes(args.num_experts), true},
                moe_permute_kernel, args, stream.fault(), token_warps);
}

}  // namespace openmoe::gpu
