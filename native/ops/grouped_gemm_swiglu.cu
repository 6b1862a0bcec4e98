// launch   gpu/hopper_gemm.h or gpu/portable_gemm.h, then gpu/gemm_tile.h adds up the tiles that were split
// traffic  the gate and up weights of every expert that has rows, once per token tile; a third of the sums is written
// why      the image interleaves both gate halves and up by 8 features, so one thread holds all three numbers of an
//          output and the activation costs no memory at all
#include "ops/grouped_gemm_swiglu.h"

#include "gpu/grouped_launch.h"

namespace openmoe::gpu {

// 24-row groups: 8 rows of the first gate half, 8 of the second, 8 of up, all of the same 8 features.
struct GateUpWeights {
  static constexpr WeightKind kKind = WeightKind::gate_up;
  static constexpr int kRows = 192, kAccumulators = 3, kOutBlocks = 1;
  static constexpr int kGroupStride = 24 * kRowBytes, kAccumulatorStride = kGroupRows * kRowBytes;

  // silu is on the second half of the gate (spec 3.5).
  template <int K>
  GPU_DEVICE static float value(const float (&sums)[3][K], int, int i) {
    const float a = sums[0][i], b = sums[1][i], up = sums[2][i];
    return a * (b / (1.0f + exp_fast(-b))) * up;
  }

  // A warp has two groups, 48 rows: three m16 tiles hold first|second, up|first, second|up.
  GPU_DEVICE static int mma_row(int warp, int tile) { return 48 * warp + 16 * tile; }
  template <int K>
  GPU_DEVICE static void mma(float (&sums)[3][K], int tile, int j, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    float (&first)[K] = sums[0], (&second)[K] = sums[1], (&up)[K] = sums[2];
    const int i = 4 * j, next = 4 * j + 2;  // registers of the warp's first 8 features, and of the next 8
    if (tile == 0)
      mma_m16n8k16(first[i], first[i + 1], second[i], second[i + 1], a, b0, b1);
    else if (tile == 1)
      mma_m16n8k16(up[i], up[i + 1], first[next], first[next + 1], a, b0, b1);
    else
      mma_m16n8k16(second[next], second[next + 1], up[next], up[next + 1], a, b0, b1);
  }
};

void grouped_gemm_swiglu(const GroupedGemmSwiglu& a, Stream& stream) {
  const WeightImage image = weight_image(GateUpWeights::kKind, 3 * int64_t{a.intermediate_size}, a.in_features);
  launch_grouped_gemm<GateUpWeights>("grouped_gemm_swiglu",
                                     {.weight = a.weight.as<std::byte>(),
                                      .x = a.x.as<std::byte>(),
                                      .out = a.out.as<std::byte>(),
                                      .expert_offsets = a.expert_offsets.as<int32_t>(),
                                      .partials = nullptr,
                                      .num_rows = a.num_rows,
                                      .num_experts = a.num_experts,
                                      .panel_rows = panel_rows(a.num_rows, a.num_experts),
                                      .weight_tiles = image.tiles,
                                      .out_blocks = image.tiles,
                                      .k_blocks = static_cast<int>(image.k_blocks),
                                      .split = false},
                                     stream);
}

}  // namespace openmoe::gpu
