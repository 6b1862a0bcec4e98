// The grouped GEMM of every device from sm_80 on: the same images and tiles, copied with cp.async in stages and
// multiplied with mma.sync from ldmatrix. Four warps; each has 16 features of every matrix of the weight tile, and all
// tokens of the token tile.
#pragma once

#include "gpu/gemm_tile.h"

namespace openmoe::gpu {

template <class Weights>
struct PortableShape {
  static constexpr int kTokens = kMostSplitTokens, kThreads = kWarpgroup;
  static constexpr int kStages = 3;  // of 32 KiB for gate+up: the most that sm_86 and sm_89 have room for
  static constexpr int kWeightBytes = Weights::kRows * kRowBytes;
  static constexpr int kStageBytes = kWeightBytes + kTokens * kRowBytes;
  static constexpr int kTable = kStages * kStageBytes;
  static constexpr size_t shared_bytes(int num_experts) { return kTable + ExpertTable::bytes(num_experts); }
  static_assert(Weights::kOutBlocks * kTokens * kRowBytes <= kStageBytes, "staging reuses the first stage");
};

template <class Weights>
struct PortableBlock {
  using Shape = PortableShape<Weights>;
  std::byte* shared;

  GPU_DEVICE std::byte* stage(int k) const { return shared + k % Shape::kStages * Shape::kStageBytes; }

  // Starts the copies of k-block k into its stage; a group even when there is none, so that groups count k-blocks.
  GPU_DEVICE void load_stage(const GemmArgs& a, const Segment& s, int k) {
    if (k < s.k_end) {
      copy(stage(k), weight_block<Weights>(a, s, k), Shape::kWeightBytes);
      copy(stage(k) + Shape::kWeightBytes, token_block(a, s, k),
           static_cast<int>(round_up(s.rows, kGroupRows)) * kRowBytes);
    }
    copy_async_commit();
  }

  GPU_DEVICE void copy(std::byte* to, const std::byte* from, int bytes) {
    for (int i = thread_id() * 16; i < bytes; i += Shape::kThreads * 16) copy_async16(to + i, from + i);
  }

  // ldmatrix wants a row of 16 bytes from each lane. Matrices 0-3 of the weights: rows 0-7 and 8-15 of the first 8
  // features, then of the next 8; of the tokens: both halves of the features of 8 tokens, then of the next 8.
  template <int N>
  GPU_DEVICE void multiply_stage(float (&sums)[Weights::kAccumulators][N / 2], const std::byte* w, const std::byte* x) {
    const int warp = warp_id(), lane = lane_id();
    GPU_UNROLL for (int step = 0; step < kBlockFeatures; step += 16) {
      uint32_t weights[Weights::kAccumulators][4];
      GPU_UNROLL for (int m = 0; m < Weights::kAccumulators; ++m)
          ldmatrix_x4(weights[m], w + swizzled(Weights::mma_row(warp, m) + lane % 16, step + lane / 16 * 8));
      GPU_UNROLL for (int j = 0; j < N / 8; j += 2) {
        uint32_t tokens[4];
        ldmatrix_x4(tokens, x + swizzled(8 * j + lane / 16 * 8 + lane % 8, step + lane / 8 % 2 * 8));
        GPU_UNROLL for (int m = 0; m < Weights::kAccumulators; ++m) {
          Weights::mma(sums, m, j, weights[m], tokens[0], tokens[1]);
          Weights::mma(sums, m, j + 1, weights[m], tokens[2], tokens[3]);
        }
      }
    }
  }

  template <int N>
  GPU_DEVICE void run(const GemmArgs& a, const Segment& s) {
    float sums[Weights::kAccumulators][N / 2];
    clear(sums);
    for (int k = 0; k < Shape::kStages - 1; ++k) load_stage(a, s, s.k_begin + k);
    for (int k = s.k_begin; k < s.k_end; ++k) {
      copy_async_wait<Shape::kStages - 2>();
      block_sync();  // everybody's copies of k are there, and everybody is done with the stage that is loaded next
      load_stage(a, s, k + Shape::kStages - 1);
      multiply_stage<N>(sums, stage(k), stage(k) + Shape::kWeightBytes);
    }
    copy_async_wait<0>();
    block_sync();
    if (s.whole) {
      stage_tile<Weights, N>(sums, shared, Shape::kTokens);
      block_sync();
      copy_tile_out<Weights>(a, s, shared, Shape::kTokens);
      block_sync();  // before the next tile's copies write over the staged rows
    } else {
      store_partial<Weights, N>(sums, partial<Weights>(a, block_id(), s.first));
    }
  }
};

// launch   one persistent block of 4 warps per SM
// traffic  as hopper_gemm
// why      no shared-memory layout of its own: the image's swizzle is what ldmatrix needs
template <class Weights, int... kWidths>
GPU_KERNEL(PortableShape<Weights>::kThreads, 1)
void portable_gemm(GemmArgs a) {
  using Shape = PortableShape<Weights>;
  launch_wait();
  PortableBlock<Weights> block{shared_memory()};
  const ExpertTable table(shared_memory() + Shape::kTable, a.num_experts);
  fill_expert_table(table, a.expert_offsets, a.num_experts, a.num_rows, Shape::kTokens);
  Work work(table, a.num_experts, a.weight_tiles, a.k_blocks, Shape::kTokens, a.split);
  work.start(block_id(), num_blocks());
  for (Segment s; work.next(s);) with_width<kWidths...>(s.rows, [&](auto width) { block.template run<width()>(a, s); });
  launch_next();
}

}  // namespace openmoe::gpu
