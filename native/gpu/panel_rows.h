// How moe_permute and moe_unpermute share a block's threads out over tokens, and where a row is in a panel.
#pragma once

#include "gpu/expert_tiles.h"
#include "gpu/gpu.h"
#include "gpu/tile_image.h"

namespace openmoe::gpu {

constexpr int kRowWarps = 8;   // of a block
constexpr int kRowChunk = 8;   // features a thread moves at once: 16 bytes of a panel
constexpr int kAnyTiles = 64;  // fill_expert_table also counts tiles, which nobody here asks for

// With tokens enough to fill the device a warp has one to itself and its block reads the offsets once for 8 of them;
// with few, the whole block works on one.
constexpr int warps_per_token(int64_t num_tokens, int num_sms) {
  return num_tokens >= int64_t{kRowWarps} * num_sms ? 1 : kRowWarps;
}

// The row of the panel that holds row `row`, or -1 for a row of no expert.
GPU_DEVICE int64_t panel_row(const ExpertTable& table, int num_experts, int row) {
  if (row < table.first_row[0] || row >= table.first_row[num_experts]) return -1;
  int low = 0, high = num_experts;  // the last expert that starts at or before the row; empty ones start there too
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_row[middle] <= row ? low : high) = middle;
  }
  return int64_t{table.panel_start[low]} + row - table.first_row[low];
}

}  // namespace openmoe::gpu
