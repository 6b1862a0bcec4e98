// What the grouped GEMM kernels share: their arguments, a tile's sums in registers, and how those become rows of the
// output panel. The weights are the left operand, so the 16-row granularity of the tensor cores falls on them and
// tokens are padded to 8 only.
//
// A tile is 64 features of each of kAccumulators matrices times up to N tokens, held by 128 threads. With w = warp,
// l = lane, register sums[m][4j + 2h + q] of a thread is
//     feature 16w + l/4 + 8h   of matrix m,   token 8j + 2(l%4) + q
// on both kernel paths: it is wgmma's layout, and mma.sync can be made to fill it.
//
// Weights, a type of each op, says what a weight tile is:
//     kKind, kRows, kAccumulators              the image (gpu/tile_image.h)
//     kGroupStride, kAccumulatorStride         bytes between an accumulator's groups of 8 rows; between accumulators
//     kOutBlocks                               64-feature blocks of the output
//     value(sums, block, i)                    the output number of register i
//     mma(sums, warp tile, j, a, b0, b1)       mma.sync of 16 rows and 8 tokens
//     mma_row(warp, warp tile)                 the first of those rows
#pragma once

#include <type_traits>

#include "gpu/expert_tiles.h"
#include "gpu/gpu.h"

namespace openmoe::gpu {

struct GemmArgs {
  const std::byte* weight;        // image
  const std::byte* x;             // panel
  std::byte* out;                 // panel
  const int32_t* expert_offsets;  // [num_experts + 1]
  float* partials;                // [blocks][2][kAccumulators][N / 2][128], when split
  int num_rows, num_experts;
  int64_t panel_rows, weight_tiles, out_blocks;
  int k_blocks;
  bool split;  // Work
};

constexpr int kMostSplitTokens = 64;  // of a tile that may be summed in parts

template <class Weights>
GPU_DEVICE const std::byte* weight_block(const GemmArgs& a, const Segment& s, int k) {
  constexpr int64_t kBlockBytes = Weights::kRows * kRowBytes;
  return a.weight + ((s.expert * a.weight_tiles + s.weight_tile) * a.k_blocks + k) * kBlockBytes;
}

GPU_DEVICE const std::byte* token_block(const GemmArgs& a, const Segment& s, int k) {
  return a.x + (k * a.panel_rows + s.panel_row) * kRowBytes;
}

// Where output block `block` of the tile lies; null past the last: a weight tile may be wider than what is left.
template <class Weights>
GPU_DEVICE std::byte* out_block(const GemmArgs& a, const Segment& s, int block) {
  const int64_t column = s.weight_tile * Weights::kOutBlocks + block;
  return column < a.out_blocks ? a.out + (column * a.panel_rows + s.panel_row) * kRowBytes : nullptr;
}

// Calls f with the narrowest of the widths N... that holds the tokens, as a constant: the sums are registers.
template <int kFirst, int... kMore, class F>
GPU_DEVICE void with_width(int tokens, F f) {
  if constexpr (sizeof...(kMore) == 0) {
    f(std::integral_constant<int, kFirst>{});
  } else {
    if (tokens <= kFirst)
      f(std::integral_constant<int, kFirst>{});
    else
      with_width<kMore...>(tokens, f);
  }
}

// Not left to wgmma, whose first product could overwrite: without a value here the compiler keeps the registers of
// every width alive through the whole kernel, and spills (ADR 0021).
template <int kMatrices, int kRegisters>
GPU_DEVICE void clear(float (&sums)[kMatrices][kRegisters]) {
  GPU_UNROLL for (int m = 0; m < kMatrices; ++m) GPU_UNROLL for (int i = 0; i < kRegisters; ++i) sums[m][i] = 0;
}

// Writes the tile as bf16 rows [kOutBlocks][block_rows][128 bytes], swizzled, into shared memory. Two neighbouring
// tokens of one feature are one register, so stmatrix transposes: its rows are tokens.
template <class Weights, int N>
GPU_DEVICE void stage_tile(const float (&sums)[Weights::kAccumulators][N / 2], std::byte* staging, int block_rows) {
  const int warp = warp_id() % 4, lane = lane_id();
  GPU_UNROLL for (int block = 0; block < Weights::kOutBlocks; ++block) {
    std::byte* rows = staging + block * block_rows * kRowBytes;
    const auto pair = [&](int i) {
      return pack_bf16(Weights::value(sums, block, i), Weights::value(sums, block, i + 1));
    };
    // Matrix m of a lane's address: token group j + m / 2, features 8 (m % 2) of the warp's 16.
    const auto row = [&](int j, int m) { return rows + swizzled(8 * (j + m / 2) + lane % 8, 16 * warp + 8 * (m % 2)); };
    if constexpr (N == 8) {
      const uint32_t r[2] = {pair(0), pair(2)};
      stmatrix_trans_x2(row(0, lane / 8 % 2), r);
    } else {
      GPU_UNROLL for (int j = 0; j < N / 8; j += 2) {
        const uint32_t r[4] = {pair(4 * j), pair(4 * j + 2), pair(4 * j + 4), pair(4 * j + 6)};
        stmatrix_trans_x4(row(j, lane / 8), r);
      }
    }
  }
}

// Copies the staged rows out, 16 bytes a thread; 128 threads.
template <class Weights>
GPU_DEVICE void copy_tile_out(const GemmArgs& a, const Segment& s, const std::byte* staging, int block_rows) {
  const int chunks = static_cast<int>(round_up(s.rows, kGroupRows)) * (kRowBytes / 16);
  for (int block = 0; block < Weights::kOutBlocks; ++block) {
    std::byte* to = out_block<Weights>(a, s, block);
    if (!to) continue;
    const auto* from = reinterpret_cast<const Vec16*>(staging + block * block_rows * kRowBytes);
    for (int i = thread_id() % kWarpgroup; i < chunks; i += kWarpgroup)
      store(reinterpret_cast<Vec16*>(to) + i, from[i]);
  }
}

// ---- tiles in parts: a block's share cuts at most its first and its last tile

template <class Weights>
constexpr int64_t kPartialFloats = int64_t{Weights::kAccumulators} * (kMostSplitTokens / 2) * kWarpgroup;

template <class Weights>
constexpr size_t partials_bytes(int64_t blocks) {
  return static_cast<size_t>(blocks) * 2 * kPartialFloats<Weights> * sizeof(float);
}

template <class Weights>
GPU_DEVICE float* partial(const GemmArgs& a, int64_t block, bool first) {
  return a.partials + (block * 2 + first) * kPartialFloats<Weights> + thread_id() % kWarpgroup;
}

template <class Weights, int N>
GPU_DEVICE void store_partial(const float (&sums)[Weights::kAccumulators][N / 2], float* to) {
  GPU_UNROLL for (int m = 0; m < Weights::kAccumulators; ++m) GPU_UNROLL for (int i = 0; i < N / 2; ++i)
      store(to + (m * (N / 2) + i) * kWarpgroup, sums[m][i]);
}

// Adds up the parts of one tile, in the order of their k-blocks: the blocks of the kernel before, from `block` on.
template <class Weights, int N>
GPU_DEVICE void add_partials(const GemmArgs& a, const Work& work, int64_t block, int64_t blocks, int64_t stop,
                             std::byte* staging) {
  float sums[Weights::kAccumulators][N / 2];
  bool first = true;
  for (; block < blocks && work.share_begin(block, blocks) < stop; ++block) {
    if (work.share_begin(block, blocks) == work.share_begin(block + 1, blocks)) continue;  // no share
    const float* from = partial<Weights>(a, block, first);
    GPU_UNROLL for (int m = 0; m < Weights::kAccumulators; ++m) GPU_UNROLL for (int i = 0; i < N / 2; ++i) {
      const float part = load(from + (m * (N / 2) + i) * kWarpgroup);
      sums[m][i] = first ? part : sums[m][i] + part;
    }
    first = false;
  }
  stage_tile<Weights, N>(sums, staging, kMostSplitTokens);
}

// launch   one block of 128 threads per border between two shares of the kernel before
// traffic  the partial sums once, at most 2 tiles a share; nothing where a border falls between two tiles
// why      the widths are those of the kernel before: they decide where it put its sums; a kernel of its own, so that
// no block ever waits for another, and the order of additions is fixed
template <class Weights, int... kWidths>
GPU_KERNEL(kWarpgroup, 1)
void add_split_tiles(GemmArgs a) {
  launch_wait();
  std::byte* staging = shared_memory();
  const ExpertTable table(staging + Weights::kOutBlocks * kMostSplitTokens * kRowBytes, a.num_experts);
  fill_expert_table(table, a.expert_offsets, a.num_experts, a.num_rows, kMostSplitTokens);
  Work work(table, a.num_experts, a.weight_tiles, a.k_blocks, kMostSplitTokens, true);
  const int64_t border = block_id() + 1, blocks = num_blocks() + 1;
  const int64_t unit = work.share_begin(border, blocks), tile = unit / a.k_blocks, begin = tile * a.k_blocks;
  // The first border inside a tile adds up all of it.
  if (unit == begin || unit >= work.units() || work.share_begin(border - 1, blocks) > begin) return;
  Segment s{};
  s.k_end = a.k_blocks;
  work.locate(tile, s);
  with_width<kWidths...>(s.rows, [&](auto width) {
    add_partials<Weights, width()>(a, work, border - 1, blocks, begin + a.k_blocks, staging);
  });
  block_sync();
  copy_tile_out<Weights>(a, s, staging, kMostSplitTokens);
}

template <class Weights>
constexpr size_t add_split_tiles_bytes(int num_experts) {
  return Weights::kOutBlocks * kMostSplitTokens * kRowBytes + ExpertTable::bytes(num_experts);
}

}  // namespace openmoe::gpu
