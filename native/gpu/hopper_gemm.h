// The grouped GEMM of sm_90a. A producer warp streams stages (one k-block of a weight tile and of its tokens, two bulk
// copies) into a ring; consumer warpgroups multiply them with wgmma, each its part of the tokens, and keep the sums in
// registers until the tile is done. Blocks are persistent: the ring runs on from tile to tile, so the next tile's
// weights arrive while this one's rows are written.
#pragma once

#include "gpu/gemm_tile.h"

namespace openmoe::gpu {

// Tokens a consumer warpgroup takes, consumers, stages of the ring; kWidths... are the token counts it is compiled for.
template <class Weights, int kTokens_, int kConsumers_, int kStages_>
struct HopperShape {
  static constexpr int kTokens = kTokens_, kConsumers = kConsumers_, kStages = kStages_;
  static constexpr int kTileTokens = kTokens * kConsumers;
  static constexpr int kThreads = kWarpgroup * (1 + kConsumers);
  static constexpr bool kMovesRegisters = kConsumers > 1;

  static constexpr int kWeightBytes = Weights::kRows * kRowBytes;
  static constexpr int kTokenBytes = kTileTokens * kRowBytes;
  static constexpr int kStagingBytes = Weights::kOutBlocks * kTokens * kRowBytes;  // of a consumer

  // Shared memory: rings, then staging, barriers, table. Rings and staging start at multiples of 1024.
  static constexpr int kTokenRing = kStages * kWeightBytes;
  static constexpr int kStaging = kTokenRing + kStages * kTokenBytes;
  static constexpr int kBarriers = kStaging + kConsumers * kStagingBytes;
  static constexpr int kTable = kBarriers + 2 * kStages * static_cast<int>(sizeof(Barrier));
  static constexpr size_t shared_bytes(int num_experts) { return kTable + ExpertTable::bytes(num_experts); }
};

// Position in the ring. The parity says how often it has gone round: a barrier's phases alternate.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;
  GPU_DEVICE void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <class Weights, class Shape>
struct HopperBlock {
  std::byte* shared;
  Barrier *full, *empty;  // of each stage: its bytes are there; every consumer warp is done with it
  RingPosition<Shape::kStages> ring{};

  GPU_DEVICE explicit HopperBlock(std::byte* memory)
      : shared(memory), full(reinterpret_cast<Barrier*>(memory + Shape::kBarriers)), empty(full + Shape::kStages) {}

  GPU_DEVICE std::byte* weights(int stage) const { return shared + stage * Shape::kWeightBytes; }
  GPU_DEVICE std::byte* tokens(int stage) const { return shared + Shape::kTokenRing + stage * Shape::kTokenBytes; }

  GPU_DEVICE void init_barriers() {
    if (thread_id() != 0) return;
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, Shape::kConsumers * (kWarpgroup / kWarp));
    }
    fence_barrier_init();
  }

  // One thread.
  GPU_DEVICE void produce(const GemmArgs& a, Work& work) {
    for (Segment s; work.next(s);) {
      const uint32_t token_bytes = static_cast<uint32_t>(round_up(s.rows, kGroupRows)) * kRowBytes;
      for (int k = s.k_begin; k < s.k_end; ++k) {
        barrier_wait(empty + ring.stage, ring.parity ^ 1);  // a fresh barrier lets the first round pass
        barrier_expect(full + ring.stage, Shape::kWeightBytes + token_bytes);
        // Weights are read once; an expert's tokens by every block that has one of its weight tiles.
        bulk_load(weights(ring.stage), weight_block<Weights>(a, s, k), Shape::kWeightBytes, full + ring.stage,
                  L2::evict_first);
        bulk_load(tokens(ring.stage), token_block(a, s, k), token_bytes, full + ring.stage, L2::evict_last);
        ring.advance();
      }
    }
    launch_next();
  }

  GPU_DEVICE void release(int stage) {
    if (lane_id() == 0) barrier_arrive(empty + stage);
  }

  // A consumer without tokens in this tile keeps step with the ring.
  GPU_DEVICE void skip(int k_blocks) {
    for (int k = 0; k < k_blocks; ++k) {
      barrier_wait(full + ring.stage, ring.parity);
      release(ring.stage);
      ring.advance();
    }
  }

  // sums += weights x tokens over the next k_blocks stages; first_token is this consumer's first row of the stage. One
  // k-block stays in flight while the next is issued; its stage is released when it is known to be done.
  template <int N>
  GPU_DEVICE void multiply(float (&sums)[Weights::kAccumulators][N / 2], int k_blocks, int first_token) {
    int previous = 0;
    for (int k = 0; k < k_blocks; ++k) {
      barrier_wait(full + ring.stage, ring.parity);
      const std::byte* w = weights(ring.stage);
      const std::byte* x = tokens(ring.stage) + first_token * kRowBytes;
      wgmma_fence();
      GPU_UNROLL for (int step = 0; step < kBlockFeatures / 16; ++step) {
        const auto b = matrix_descriptor(x + step * 32, kGroupRows * kRowBytes);
        GPU_UNROLL for (int m = 0; m < Weights::kAccumulators; ++m) wgmma<N>(
            sums[m], matrix_descriptor(w + m * Weights::kAccumulatorStride + step * 32, Weights::kGroupStride), b);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (k > 0) release(previous);
      previous = ring.stage;
      ring.advance();
    }
    wgmma_wait_all(sums);
    release(previous);
  }

  GPU_DEVICE void consumer_sync(int consumer) {
    if (consumer == 0)
      named_sync<1, kWarpgroup>();
    else
      named_sync<2, kWarpgroup>();
  }

  // Rows [first_token, first_token + tokens) of the tile, through staging and bulk stores.
  template <int N>
  GPU_DEVICE void write(const GemmArgs& a, const Segment& s, const float (&sums)[Weights::kAccumulators][N / 2],
                        int consumer, int first_token, int tokens) {
    std::byte* staging = shared + Shape::kStaging + consumer * Shape::kStagingBytes;
    const bool issuer = thread_id() % kWarpgroup == 0;
    if (issuer) bulk_wait_read();  // the rows of the tile before have left staging
    consumer_sync(consumer);
    stage_tile<Weights, N>(sums, staging, Shape::kTokens);
    fence_async_shared();
    consumer_sync(consumer);
    if (!issuer) return;
    for (int block = 0; block < Weights::kOutBlocks; ++block)
      if (std::byte* to = out_block<Weights>(a, s, block))
        bulk_store(to + first_token * kRowBytes, staging + block * Shape::kTokens * kRowBytes,
                   static_cast<uint32_t>(tokens) * kRowBytes);
    bulk_commit();
  }

  template <int... kWidths>
  GPU_DEVICE void consume(const GemmArgs& a, Work& work, int consumer) {
    for (Segment s; work.next(s);) {
      const int rows = static_cast<int>(round_up(s.rows, kGroupRows));
      // The first consumer takes the larger half; wgmma wants its first row at a multiple of 8.
      const int half = Shape::kConsumers == 1 ? rows : static_cast<int>(round_up(rows / 2, kGroupRows));
      const int first_token = consumer == 0 ? 0 : half;
      const int tokens = consumer == 0 ? half : rows - half;
      if (tokens <= 0) {
        skip(s.k_end - s.k_begin);
        continue;
      }
      with_width<kWidths...>(tokens, [&](auto width) {
        constexpr int N = width();
        float sums[Weights::kAccumulators][N / 2];
        clear(sums);
        multiply<N>(sums, s.k_end - s.k_begin, first_token);
        if (s.whole)
          write<N>(a, s, sums, consumer, first_token, tokens);
        else if constexpr (Shape::kConsumers == 1)
          store_partial<Weights, N>(sums, partial<Weights>(a, block_id(), s.first));
      });
    }
    if (thread_id() % kWarpgroup == 0) bulk_wait();
  }
};

// launch   one persistent block per SM: a producer warpgroup and kConsumers consumer warpgroups
// traffic  each touched expert's weights once per token tile, its tokens once per weight tile (from L2)
// why      the weights never change hands: one bulk copy per stage brings them as wgmma reads them
template <class Weights, class Shape, int... kWidths>
GPU_KERNEL(Shape::kThreads, 1)
void hopper_gemm(GemmArgs a) {
  launch_wait();
  HopperBlock<Weights, Shape> block(shared_memory());
  const ExpertTable table(shared_memory() + Shape::kTable, a.num_experts);
  block.init_barriers();
  fill_expert_table(table, a.expert_offsets, a.num_experts, a.num_rows, Shape::kTileTokens);
  Work work(table, a.num_experts, a.weight_tiles, a.k_blocks, Shape::kTileTokens, a.split);
  work.start(block_id(), num_blocks());
  if (thread_id() < kWarpgroup) {
    if constexpr (Shape::kMovesRegisters) registers_release<40>();
    if (thread_id() == 0) block.produce(a, work);
  } else {
    if constexpr (Shape::kMovesRegisters) registers_claim<232>();
    block.template consume<kWidths...>(a, work, thread_id() / kWarpgroup - 1);
  }
}

}  // namespace openmoe::gpu
