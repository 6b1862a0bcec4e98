// launch   one thread per 16 bytes of the image, neighbours in a row
// traffic  read and write every weight once; the 8 threads of a k-block write one run of 128 bytes
// why      on the device, because there it takes milliseconds and no second copy of the weights in host memory
#include "gpu/pack_weights.h"

#include <algorithm>

#include "gpu/gpu.h"
#include "gpu/stream.h"
#include "gpu/tile_image.h"

namespace openmoe::gpu {

namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 8;  // bf16 in 16 bytes
constexpr int64_t kMostBlocks = 1 << 20;

GPU_KERNEL(kThreads, 2) void pack_weights_kernel(PackWeights a) {
  const WeightImage image = weight_image(a.layout == MatrixLayout::gate_up ? WeightKind::gate_up : WeightKind::plain,
                                         a.out_features, a.in_features);
  const int64_t across = div_up(a.cols, kChunk);
  for (int64_t i = block_id() * kThreads + thread_id(); i < a.rows * across; i += num_blocks() * kThreads) {
    const int64_t row = i / across, col = i % across * kChunk;
    const uint16_t* from = a.from + row * a.cols + col;
    Vec16 chunk = {};
    if (a.cols % kChunk == 0) {
      chunk = load_once(reinterpret_cast<const Vec16*>(from));
    } else {
      GPU_UNROLL for (int j = 0; j < kChunk; ++j) if (col + j < a.cols) chunk.word[j / 2] |=
          static_cast<uint32_t>(load(from + j)) << (16 * (j % 2));
    }
    const int64_t to = weight_offset(image, a.out_features, a.index, a.row_offset + row, a.col_offset + col);
    store(reinterpret_cast<Vec16*>(static_cast<std::byte*>(a.image) + to), chunk);
  }
}

}  // namespace

void pack_weights(const PackWeights& args, Stream& stream) {
  const int64_t blocks = div_up(args.rows * div_up(args.cols, kChunk), kThreads);
  stream.launch({"pack_weights", std::min(blocks, kMostBlocks), kThreads}, pack_weights_kernel, args);
}

}  // namespace openmoe::gpu
