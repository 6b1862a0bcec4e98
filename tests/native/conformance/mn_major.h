// wgmma with operands that lie the other way round in shared memory, as the values of attention do: MN-major, a row for
// each k. Both come as plain row-major matrices, and the expected product is read from those; only the kernel knows
// where the chunks of a row go.
#pragma once

#include "case.h"

namespace openmoe::gpu::conformance {

constexpr int kMnDepth = 64;  // of the product: four steps of 16

// An operand of kSize rows (M) or columns (N). In memory it is [kSize, 64] when K-major and [64, kSize] when MN-major;
// in shared memory ("Canonical layouts", 128-byte swizzling) rows of 64 numbers, eight of them a group of 1024 bytes,
// and of wider rows as many blocks.
template <Major kMajor, int kSize, int kGroupStride, int kBlockStride = 0>
struct MnOperand {
  static constexpr int kRows = kMajor == Major::k ? kSize : kMnDepth;
  static constexpr int kColumns = kMajor == Major::k ? kMnDepth : kSize;
  static constexpr int kNumbers = kRows * kColumns;
  static constexpr int kBytes = (kRows / 8 - 1) * kGroupStride + (kColumns / 64 - 1) * kBlockStride + 1024;

  GPU_DEVICE static void put(std::byte* shared, const uint16_t* matrix) {
    constexpr int kChunks = kColumns / 8;  // of 16 bytes, in a row
    for (int i = thread_id(); i < kRows * kChunks; i += kWarpgroup) {
      const int row = i / kChunks, block = i % kChunks / 8, chunk = i % kChunks % 8;
      std::byte* to = shared + row / 8 * kGroupStride + block * kBlockStride + row % 8 * 128 + (chunk ^ row % 8) * 16;
      store_shared(reinterpret_cast<Vec16*>(to), load(reinterpret_cast<const Vec16*>(matrix) + i));
    }
  }

  // Of the 16 k of a step: 32 bytes of each row, or two groups of rows.
  GPU_DEVICE static auto descriptor(const std::byte* shared, int step) {
    if constexpr (kMajor == Major::k)
      return matrix_descriptor(shared + step * 32, kGroupStride);
    else
      return matrix_descriptor_mn(shared + step * 2 * kGroupStride, kGroupStride, kBlockStride);
  }

  static double at(const uint16_t* matrix, int i, int k) {
    return value(kMajor == Major::k ? matrix[i * kMnDepth + k] : matrix[k * kSize + i]);
  }
};

template <int N, class A, class B>
GPU_KERNEL(kWarpgroup, 1)
void mn_kernel(const uint16_t* in, uint32_t* out) {
  std::byte *a = shared_memory(), *b = a + A::kBytes;
  A::put(a, in);
  B::put(b, in + A::kNumbers);
  fence_async_shared();
  block_sync();
  float d[1][N / 2];
  GPU_UNROLL for (int i = 0; i < N / 2; ++i) d[0][i] = 0;
  wgmma_fence();
  GPU_UNROLL for (int step = 0; step < kMnDepth / 16; ++step)
      wgmma<N>(d[0], A::descriptor(a, step), B::descriptor(b, step));
  wgmma_commit();
  wgmma_wait_all(d);
  const int row = 16 * warp_id() + lane_id() / 4, column = lane_id() % 4 * 2;
  GPU_UNROLL for (int i = 0; i < N / 2; ++i) store(out + (row + (i >> 1 & 1) * 8) * N + column + (i >> 2) * 8 + (i & 1),
                                                   __builtin_bit_cast(uint32_t, d[0][i]));
}

template <int N, class A, class B>
void add_mn_major(std::vector<Case>& cases, const std::string& name) {
  for (const bool whole : {true, false}) {
    const auto make = [whole] {
      constexpr size_t kNumbers = A::kNumbers + B::kNumbers;
      return whole ? whole_bf16(kNumbers, N) : normal_bf16(kNumbers, N);
    };
    const auto run = [=](BareDevice& d) {
      return run_block<uint16_t>(d, mn_kernel<N, A, B>, kWarpgroup, make(), 64 * N, A::kBytes + B::kBytes);
    };
    const auto expected = [=] {
      const auto in = make();
      Words out;
      for (int row = 0; row < 64; ++row)
        for (int column = 0; column < N; ++column) {
          double sum = 0;
          for (int k = 0; k < kMnDepth; ++k) sum += A::at(in.data(), row, k) * B::at(&in[A::kNumbers], column, k);
          out.push_back(word(static_cast<float>(sum)));
        }
      return out;
    };
    cases.push_back({"wgmma<" + std::to_string(N) + ">, " + name + (whole ? ", whole numbers" : ", random numbers"), 90,
                     whole ? 0 : kTensorCoreError, run, expected});
  }
}

inline void add_mn_major_cases(std::vector<Case>& cases) {
  constexpr Major k = Major::k, mn = Major::mn;
  add_mn_major<64, MnOperand<k, 64, 1024>, MnOperand<mn, 64, 1024>>(cases, "b MN-major, one block");
  add_mn_major<128, MnOperand<k, 64, 1024>, MnOperand<mn, 128, 1024, 9216>>(cases, "b MN-major, block after block");
  add_mn_major<128, MnOperand<k, 64, 1024>, MnOperand<mn, 128, 2048, 1024>>(cases, "b MN-major, group after group");
  add_mn_major<8, MnOperand<mn, 64, 1024>, MnOperand<k, 8, 1024>>(cases, "a MN-major");
  add_mn_major<32, MnOperand<mn, 64, 3072>, MnOperand<k, 32, 2048>>(cases, "a MN-major, group stride 3072");
  add_mn_major<64, MnOperand<mn, 64, 2048>, MnOperand<mn, 64, 3072>>(cases, "both MN-major");
}

}  // namespace openmoe::gpu::conformance
