// Where a number is in the two layouts the matrix kernels read (docs/cuda.md draws them). Both are made of rows of 64
// bf16, 128 bytes, whose 16-byte chunks are permuted: chunk c of row r lies at c ^ (r % 8). That is the 128-byte
// swizzle of wgmma, it keeps ldmatrix free of bank conflicts, and it makes every copy below one run of contiguous
// bytes.
//
//   weight image  [expert][tile][k_block][rows of the tile][128 bytes]
//   panel         [k_block][panel row][128 bytes]
//
// A tile of a plain matrix is 128 output features. A tile of a gate+up matrix is 64 output features as 192 rows: for
// each 8 of them 8 rows of the first gate half, 8 of the second, 8 of up, so that one thread gets all three of a
// feature. Sizes that are no multiple of 64 (or of a tile) are padded with zeros.
//
// In a panel the rows of expert e start at a multiple of 8 (panel_starts() in gpu/expert_tiles.h); the rows in between
// hold anything, even NaN. Features past the last are zero.
#pragma once

#include <cstdint>

namespace openmoe::gpu {

constexpr int kBlockFeatures = 64;  // of a k-block
constexpr int kRowBytes = 128;      // of one row of a k-block
constexpr int kGroupRows = 8;       // rows of a swizzle pattern, and what expert segments are rounded up to

constexpr int64_t div_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
constexpr int64_t round_up(int64_t n, int64_t to) { return div_up(n, to) * to; }

// Byte offset of feature f (0-63) of row r inside a block of rows.
constexpr int64_t swizzled(int64_t row, int feature) {
  return row * kRowBytes + (((feature >> 3) ^ static_cast<int>(row & 7)) << 4) + (feature & 7) * 2;
}

enum class WeightKind { plain, gate_up };

struct WeightImage {
  WeightKind kind;
  int64_t tiles, k_blocks;  // of one expert
  int rows;                 // of a tile

  constexpr int64_t block_bytes() const { return int64_t{rows} * kRowBytes; }
  constexpr int64_t tile_bytes() const { return k_blocks * block_bytes(); }
  constexpr int64_t expert_bytes() const { return tiles * tile_bytes(); }
};

// out_features counts the rows of the matrix: 3 * intermediate_size for gate_up.
constexpr WeightImage weight_image(WeightKind kind, int64_t out_features, int64_t in_features) {
  const bool plain = kind == WeightKind::plain;
  return {kind, plain ? div_up(out_features, 128) : div_up(out_features / 3, 64), div_up(in_features, kBlockFeatures),
          plain ? 128 : 192};
}

// Byte offset of weight[expert, out, in]. `out_features` as above; out and in may lie in the padding of a plain image.
constexpr int64_t weight_offset(const WeightImage& image, int64_t out_features, int64_t expert, int64_t out,
                                int64_t in) {
  int64_t tile = out / 128, row = out % 128;
  if (image.kind == WeightKind::gate_up) {
    const int64_t features = out_features / 3, part = out / features, feature = out % features;
    tile = feature / 64;
    row = feature % 64 / 8 * 24 + part * 8 + feature % 8;
  }
  return expert * image.expert_bytes() + tile * image.tile_bytes() + in / kBlockFeatures * image.block_bytes() +
         swizzled(row, static_cast<int>(in % kBlockFeatures));
}

// The reverse, for packing: which row of the matrix is row `row` of tile `tile`; -1 for a row of padding.
constexpr int64_t weight_row(const WeightImage& image, int64_t out_features, int64_t tile, int row) {
  if (image.kind == WeightKind::plain) {
    const int64_t out = tile * 128 + row;
    return out < out_features ? out : -1;
  }
  const int64_t features = out_features / 3, feature = tile * 64 + row / 24 * 8 + row % 8;
  return feature < features ? row % 24 / 8 * features + feature : -1;
}

// Rows of a panel that has room for num_rows however they fall on the experts.
constexpr int64_t panel_rows(int64_t num_rows, int64_t num_experts) {
  return round_up(num_rows + (kGroupRows - 1) * num_experts, kGroupRows);
}

constexpr int64_t panel_bytes(int64_t num_rows, int64_t num_experts, int64_t features) {
  return div_up(features, kBlockFeatures) * panel_rows(num_rows, num_experts) * kRowBytes;
}

// `rows` as panel_rows() says.
constexpr int64_t panel_offset(int64_t rows, int64_t row, int64_t feature) {
  return feature / kBlockFeatures * rows * kRowBytes + swizzled(row, static_cast<int>(feature % kBlockFeatures));
}

}  // namespace openmoe::gpu
