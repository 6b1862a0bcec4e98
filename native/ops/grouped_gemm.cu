// launch   gpu/hopper_gemm.h or gpu/portable_gemm.h, then gpu/gemm_tile.h adds up the tiles that were split
// traffic  the weights of every expert that has rows, once per token tile; the others are never touched
// why      tokens are the narrow side of the product, so a lone token costs 8 columns and not 128 rows
#include "ops/grouped_gemm.h"

#include "gpu/grouped_launch.h"

namespace openmoe::gpu {

// Two stacks of 64 output features, one below the other.
struct PlainWeights {
  static constexpr WeightKind kKind = WeightKind::plain;
  static constexpr int kRows = 128, kAccumulators = 2, kOutBlocks = 2;
  static constexpr int kGroupStride = kGroupRows * kRowBytes, kAccumulatorStride = 64 * kRowBytes;

  template <int K>
  GPU_DEVICE static float value(const float (&sums)[2][K], int block, int i) {
    return sums[block][i];
  }
  GPU_DEVICE static int mma_row(int warp, int tile) { return 64 * tile + 16 * warp; }
  template <int K>
  GPU_DEVICE static void mma(float (&sums)[2][K], int tile, int j, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    float (&s)[K] = sums[tile];
    mma_m16n8k16(s[4 * j], s[4 * j + 1], s[4 * j + 2], s[4 * j + 3], a, b0, b1);
  }
};

void grouped_gemm(const GroupedGemm& a, Stream& stream) {
  const WeightImage image = weight_image(PlainWeights::kKind, a.out_features, a.in_features);
  launch_grouped_gemm<PlainWeights>("grouped_gemm",
                                    {.weight = a.weight.as<std::byte>(),
                                     .x = a.x.as<std::byte>(),
                                     .out = a.out.as<std::byte>(),
                                     .expert_offsets = a.expert_offsets.as<int32_t>(),
                                     .partials = nullptr,
                                     .num_rows = a.num_rows,
                                     .num_experts = a.num_experts,
                                     .panel_rows = panel_rows(a.num_rows, a.num_experts),
                                     .weight_tiles = image.tiles,
                                     .out_blocks = div_up(a.out_features, kBlockFeatures),
                                     .k_blocks = static_cast<int>(image.k_blocks),
                                     .split = false},
                                    stream);
}

}  // namespace openmoe::gpu
