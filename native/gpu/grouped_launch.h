// Which kernel runs a grouped GEMM. The host knows how many rows there are, not how they fall on the experts, so it
// chooses by their average; every kernel is right for every distribution.
#pragma once

#include <string>

#include "gpu/hopper_gemm.h"
#include "gpu/portable_gemm.h"
#include "gpu/stream.h"
#include "support/error.h"

namespace openmoe::gpu {

constexpr int kMostExperts = 240;  // their table must fit beside the ring

// Up to so many rows an expert on average, weights are what takes the time: narrow tiles, all SMs on equal shares.
constexpr int kFewRows = 32;

template <class Weights>
void launch_grouped_gemm(const char* name, GemmArgs a, Stream& stream) {
  if (a.num_experts > kMostExperts)
    fail_arg(std::string(name) + ": " + std::to_string(a.num_experts) + " experts, the GPU kernels take up to " +
             std::to_string(kMostExperts));
  if (a.num_rows == 0) return;
  const bool few = a.num_rows <= int64_t{kFewRows} * a.num_experts;
  const int64_t blocks = stream.num_sms();
  a.split = few && !stream.batch_invariant();
  a.partials = a.split ? static_cast<float*>(stream.workspace(partials_bytes<Weights>(blocks))) : nullptr;
  const auto launch = [&](auto kernel, int threads, size_t shared_bytes) {
    stream.launch({name, blocks, threads, shared_bytes, true}, kernel, a);
  };
  // 192-row stages are 24 KiB of weights, 128-row stages 16: rings as deep as 227 KiB allow.
  using Narrow = HopperShape<Weights, kMostSplitTokens, 1, Weights::kRows == 192 ? 6 : 8>;
  using Wide = HopperShape<Weights, 128, 2, 3>;
  using Portable = PortableShape<Weights>;
  static_assert(Narrow::shared_bytes(kMostExperts) <= kMostShared90 &&
                Wide::shared_bytes(kMostExperts) <= kMostShared90);
  static_assert(Portable::shared_bytes(kMostExperts) <= kMostShared80);
  const auto add_up = [&](auto kernel) {
    if (a.split)
      stream.launch({name, blocks - 1, kWarpgroup, add_split_tiles_bytes<Weights>(a.num_experts), true}, kernel, a);
  };
  if (stream.arch() != 90) {
    launch(portable_gemm<Weights, 16, 32, 64>, Portable::kThreads, Portable::shared_bytes(a.num_experts));
    add_up(add_split_tiles<Weights, 16, 32, 64>);
  } else if (few) {
    launch(hopper_gemm<Weights, Narrow, 8, 16, 32, 64>, Narrow::kThreads, Narrow::shared_bytes(a.num_experts));
    add_up(add_split_tiles<Weights, 8, 16, 32, 64>);
  } else {
    launch(hopper_gemm<Weights, Wide, 32, 64, 96, 128>, Wide::kThreads, Wide::shared_bytes(a.num_experts));
  }
}

}  // namespace openmoe::gpu
