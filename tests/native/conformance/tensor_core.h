// The tensor cores and what feeds them: ldmatrix, stmatrix, mma.sync; wgmma from its descriptors.
#pragma once

#include "case.h"
#include "gpu/tile_image.h"
#include "mn_major.h"

namespace openmoe::gpu::conformance {

// ---- mma.sync and the matrix moves around it: c[16 x 16] = a[16 x 16] b[16 x 16]^T

struct MmaShared {
  uint16_t a[256], b[256], transposed[256], half[128];
};

// out: 256 f32 of c, then the transposed a and the transpose of its left half, as stmatrix makes them.
GPU_KERNEL(kWarp, 1) void mma_kernel(const uint16_t* in, uint32_t* out) {
  auto& s = *reinterpret_cast<MmaShared*>(shared_memory());
  const int lane = lane_id();
  for (int i = 0; i < 2; ++i) copy_async16(s.a + (i * kWarp + lane) * 8, in + (i * kWarp + lane) * 8);  // a and b
  copy_async_commit();
  copy_async_wait<0>();
  warp_sync();
  uint32_t a[4], b[4];
  ldmatrix_x4(a, s.a + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x4(b, s.b + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
  for (int side = 0; side < 2; ++side) {
    float c[4] = {1, 2, 3, 4};
    mma_m16n8k16(c[0], c[1], c[2], c[3], a, b[2 * side], b[2 * side + 1]);
    for (int i = 0; i < 4; ++i)
      store(out + (lane / 4 + i / 2 * 8) * 16 + side * 8 + lane % 4 * 2 + i % 2, __builtin_bit_cast(uint32_t, c[i]));
  }
  const uint32_t left[2] = {a[0], a[1]};
  stmatrix_trans_x4(s.transposed + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8, a);
  stmatrix_trans_x2(s.half + lane % 8 * 16 + lane / 8 % 2 * 8, left);
  warp_sync();
  for (int i = lane; i < 192; i += kWarp) store(out + 256 + i, reinterpret_cast<uint32_t*>(s.transposed)[i]);
}

inline Words mma_expected(const std::vector<uint16_t>& in) {
  const uint16_t *a = in.data(), *b = a + 256;
  Words out;
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      double sum = 1 + row / 8 * 2 + column % 2;
      for (int k = 0; k < 16; ++k) sum += value(a[row * 16 + k]) * value(b[column * 16 + k]);
      out.push_back(word(static_cast<float>(sum)));
    }
  for (int rows : {16, 8})  // all of a, then its first 8 columns
    for (int row = 0; row < rows; ++row)
      for (int column = 0; column < 16; column += 2)
        out.push_back(a[column * 16 + row] | uint32_t{a[(column + 1) * 16 + row]} << 16);
  return out;
}

// ---- wgmma, as the GEMM uses it: a producer warpgroup streams operands, another multiplies and adds up

constexpr int kWgmmaStages = 2, kWgmmaRounds = 5;

// How the operands come into shared memory, which decides who must fence.
enum class Operands { bulk_copied, stored };

template <int N, int kGroupStride>
struct WgmmaShared {
  alignas(1024) std::byte a[kWgmmaStages][8 * kGroupStride];
  alignas(1024) std::byte b[kWgmmaStages][N * kRowBytes];
  Barrier full[kWgmmaStages], empty[kWgmmaStages];
};

// One round: 64 rows of a in groups of 8 that are kGroupStride apart, then N rows of b.
template <int N, int kGroupStride>
constexpr int kRoundBytes = 8 * kGroupStride + N * kRowBytes;

template <int N, int kGroupStride, Operands kOperands>
GPU_DEVICE void wgmma_producer(WgmmaShared<N, kGroupStride>& s, const std::byte* in) {
  registers_release<40>();
  constexpr bool kCopied = kOperands == Operands::bulk_copied;
  constexpr int kBytes = kRoundBytes<N, kGroupStride>, kA = 8 * kGroupStride;
  if (kCopied && thread_id() != kWarpgroup) return;
  for (int round = 0; round < kWgmmaRounds; ++round, in += kBytes) {
    const int stage = round % kWgmmaStages;
    barrier_wait(&s.empty[stage], (round / kWgmmaStages & 1) ^ 1);
    if constexpr (kCopied) {
      barrier_expect(&s.full[stage], kBytes);
      bulk_load(s.a[stage], in, kA, &s.full[stage]);
      bulk_load(s.b[stage], in + kA, N * kRowBytes, &s.full[stage]);
    } else {
      for (int i = (thread_id() - kWarpgroup) * 16; i < kBytes; i += kWarpgroup * 16) {
        std::byte* to = i < kA ? s.a[stage] + i : s.b[stage] + (i - kA);
        store_shared(reinterpret_cast<Vec16*>(to), load(reinterpret_cast<const Vec16*>(in + i)));
      }
      fence_async_shared();
      barrier_arrive(&s.full[stage]);
    }
  }
}

template <int N, int kGroupStride>
GPU_DEVICE void wgmma_consumer(WgmmaShared<N, kGroupStride>& s, uint32_t* out) {
  registers_claim<232>();
  float d[1][N / 2];
  GPU_UNROLL for (int i = 0; i < N / 2; ++i) d[0][i] = 0;
  for (int round = 0; round < kWgmmaRounds; ++round) {
    const int stage = round % kWgmmaStages;
    barrier_wait(&s.full[stage], round / kWgmmaStages & 1);
    wgmma_fence();
    GPU_UNROLL for (int step = 0; step < 4; ++step)
        wgmma<N>(d[0], matrix_descriptor(s.a[stage] + step * 32, kGroupStride),
                 matrix_descriptor(s.b[stage] + step * 32, kGroupRows * kRowBytes));
    wgmma_commit();
    wgmma_wait<1>();  // the round before is over: its stage is free
    if (round > 0) barrier_arrive(&s.empty[(round - 1) % kWgmmaStages]);
  }
  wgmma_wait_all(d);
  const int row = 16 * warp_id() + lane_id() / 4, column = lane_id() % 4 * 2;
  GPU_UNROLL for (int i = 0; i < N / 2; ++i) store(out + (row + (i >> 1 & 1) * 8) * N + column + (i >> 2) * 8 + (i & 1),
                                                   __builtin_bit_cast(uint32_t, d[0][i]));
}

template <int N, int kGroupStride, Operands kOperands>
GPU_KERNEL(2 * kWarpgroup, 1)
void wgmma_kernel(const uint16_t* in, uint32_t* out) {
  auto& s = *reinterpret_cast<WgmmaShared<N, kGroupStride>*>(shared_memory());
  if (thread_id() == 0) {
    for (int i = 0; i < kWgmmaStages; ++i) {
      barrier_init(&s.full[i], kOperands == Operands::bulk_copied ? 1 : kWarpgroup);
      barrier_init(&s.empty[i], kWarpgroup);
    }
    fence_barrier_init();
  }
  block_sync();
  if (thread_id() >= kWarpgroup)
    wgmma_producer<N, kGroupStride, kOperands>(s, reinterpret_cast<const std::byte*>(in));
  else
    wgmma_consumer<N, kGroupStride>(s, out);
}

template <int N, int kGroupStride>
Words wgmma_expected(const std::vector<uint16_t>& in) {
  Words out;
  for (int row = 0; row < 64; ++row)
    for (int column = 0; column < N; ++column) {
      double sum = 0;
      for (int round = 0; round < kWgmmaRounds; ++round) {
        const uint16_t* a = &in[round * kRoundBytes<N, kGroupStride> / 2];
        const uint16_t* b = a + 8 * kGroupStride / 2;
        for (int k = 0; k < kBlockFeatures; ++k)
          sum += value(a[(row / 8 * kGroupStride + swizzled(row % 8, k)) / 2]) * value(b[swizzled(column, k) / 2]);
      }
      out.push_back(word(static_cast<float>(sum)));
    }
  return out;
}

template <int N, int kGroupStride, Operands kOperands = Operands::bulk_copied>
void add_wgmma(std::vector<Case>& cases) {
  const size_t count = size_t{kWgmmaRounds} * kRoundBytes<N, kGroupStride> / 2;
  for (const bool whole : {true, false}) {
    const auto make = [=] { return whole ? whole_bf16(count, N) : normal_bf16(count, N); };
    cases.push_back({"wgmma<" + std::to_string(N) + ">, group stride " + std::to_string(kGroupStride) +
                         (kOperands == Operands::stored ? ", operands by store_shared" : "") +
                         (whole ? ", whole numbers" : ", random numbers"),
                     90, whole ? 0 : kTensorCoreError,
                     [=](BareDevice& d) {
                       return run_block<uint16_t>(d, wgmma_kernel<N, kGroupStride, kOperands>, 2 * kWarpgroup, make(),
                                                  64 * N, sizeof(WgmmaShared<N, kGroupStride>));
                     },
                     [=] { return wgmma_expected<N, kGroupStride>(make()); }});
  }
}

// The bits of a sum must not depend on how many tokens share the instruction: batch-invariant mode rests on that.
template <int N>
Words first_columns(BareDevice& device, int columns) {
  const auto a = normal_bf16(size_t{kWgmmaRounds} * 8 * 1024 / 2, 21),
             b = normal_bf16(size_t{kWgmmaRounds} * 128 * 64, 22);
  std::vector<uint16_t> in;
  for (int round = 0; round < kWgmmaRounds; ++round) {
    in.insert(in.end(), a.begin() + round * 64 * 64, a.begin() + (round + 1) * 64 * 64);
    in.insert(in.end(), b.begin() + round * 128 * 64, b.begin() + round * 128 * 64 + N * 64);
  }
  const Words all = run_block<uint16_t>(device, wgmma_kernel<N, 1024, Operands::bulk_copied>, 2 * kWarpgroup, in,
                                        64 * N, sizeof(WgmmaShared<N, 1024>));
  Words out;
  for (int row = 0; row < 64; ++row) out.insert(out.end(), all.begin() + row * N, all.begin() + row * N + columns);
  return out;
}

// How many words the first 8 columns of each width differ in from those of the narrowest.
inline Words differences_between_widths(BareDevice& device) {
  const Words narrow = first_columns<8>(device, 8);
  Words out;
  for (const Words& wide : {first_columns<16>(device, 8), first_columns<32>(device, 8), first_columns<64>(device, 8),
                            first_columns<96>(device, 8), first_columns<128>(device, 8)}) {
    uint32_t different = 0;
    for (size_t i = 0; i < narrow.size(); ++i) different += narrow[i] != wide[i];
    out.push_back(different);
  }
  return out;
}

inline std::vector<Case> tensor_core_cases() {
  std::vector<Case> cases;
  // Of all these the group stride of 3072 bytes (three accumulators share a 192-row tile) is the least trodden path.
  add_wgmma<16, 3072>(cases);
  add_wgmma<8, 3072>(cases);
  add_wgmma<32, 3072>(cases);
  add_wgmma<64, 3072>(cases);
  add_wgmma<96, 3072>(cases);
  add_wgmma<128, 3072>(cases);
  add_mn_major_cases(cases);  // nor has any kernel used an MN-major operand yet
  add_wgmma<8, 1024>(cases);
  add_wgmma<16, 1024>(cases);
  add_wgmma<32, 1024>(cases);
  add_wgmma<64, 1024>(cases);
  add_wgmma<96, 1024>(cases);
  add_wgmma<128, 1024>(cases);
  add_wgmma<64, 1024, Operands::stored>(cases);
  cases.push_back({"wgmma of the same numbers in every width, words that differ", 90, 0, differences_between_widths,
                   [] { return Words(5, 0); }});
  cases.push_back({"ldmatrix_x4, mma_m16n8k16, stmatrix_trans_x4, stmatrix_trans_x2", 80, 0,
                   [](BareDevice& d) {
                     return run_block<uint16_t>(d, mma_kernel, kWarp, whole_bf16(512, 1), 448, sizeof(MmaShared));
                   },
                   [] { return mma_expected(whole_bf16(512, 1)); }});
  return cases;
}

}  // namespace openmoe::gpu::conformance
