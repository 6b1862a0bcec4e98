// Rows grouped by expert, as every block that works on a panel derives them from expert_offsets: where each expert's
// rows start, how they are cut into tiles, and which part of which tile is a block's.
#pragma once

#include "gpu/gpu.h"
#include "gpu/tile_image.h"

namespace openmoe::gpu {

// Tables in shared memory, [num_experts + 1] each: the sums over the experts before.
struct ExpertTable {
  int* first_row;    // rows
  int* panel_start;  // rows of the panel: each expert's rounded up to 8
  int* first_tile;   // token tiles

  static constexpr size_t bytes(int num_experts) { return 3 * sizeof(int) * (num_experts + 1); }
  GPU_DEVICE ExpertTable(void* memory, int num_experts)
      : first_row(static_cast<int*>(memory)),
        panel_start(first_row + num_experts + 1),
        first_tile(panel_start + num_experts + 1) {}
  GPU_DEVICE int rows(int expert) const { return first_row[expert + 1] - first_row[expert]; }
};

// Tokens of a tile, when `rows` of an expert go into tiles of at most `most`: even parts, so that the last tile is not
// a sliver that streams the weights once more for nothing.
GPU_DEVICE int tile_tokens(int rows, int most) {
  const int tiles = (rows + most - 1) / most;
  const int even = tiles == 0 ? 0 : (rows + tiles - 1) / tiles;
  return (even + 15) / 16 * 16;
}

GPU_DEVICE int token_tiles(int rows, int most) {
  return rows == 0 ? 0 : (rows + tile_tokens(rows, most) - 1) / tile_tokens(rows, most);
}

// value and those of the lanes before: their sum, or their maximum.
GPU_DEVICE int warp_sum_scan(int value) {
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = shuffle_up(value, step);
    if (lane_id() >= step) value += before;
  }
  return value;
}
GPU_DEVICE int warp_max_scan(int value) {
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = shuffle_up(value, step);
    value = before > value ? before : value;
  }
  return value;
}

// Fills the table; the whole block calls it and may read the table when it returns. Offsets that go backwards or past
// num_rows are cut, so that whatever they hold, no row out of range is touched.
GPU_DEVICE void fill_expert_table(const ExpertTable& table, const int32_t* expert_offsets, int num_experts,
                                  int num_rows, int most_tile_tokens) {
  if (warp_id() == 0) {
    const int lane = lane_id();
    int highest = 0;
    for (int base = 0; base <= num_experts; base += kWarp) {
      const int e = base + lane;
      int offset = e <= num_experts ? load(expert_offsets + e) : 0;
      offset = offset > num_rows ? num_rows : offset;
      offset = warp_max_scan(offset > highest ? offset : highest);
      if (e <= num_experts) table.first_row[e] = offset;
      highest = shuffle(offset, kWarp - 1);
    }
    warp_sync();
    int panel = 0, tiles = 0;
    for (int base = 0; base < num_experts; base += kWarp) {
      const int e = base + lane;
      const int rows = e < num_experts ? table.rows(e) : 0;
      const int panel_end = panel + warp_sum_scan(static_cast<int>(round_up(rows, kGroupRows)));
      const int tiles_end = tiles + warp_sum_scan(token_tiles(rows, most_tile_tokens));
      if (e < num_experts) {
        table.panel_start[e + 1] = panel_end;
        table.first_tile[e + 1] = tiles_end;
      }
      panel = shuffle(panel_end, kWarp - 1);
      tiles = shuffle(tiles_end, kWarp - 1);
    }
    if (lane == 0) table.panel_start[0] = table.first_tile[0] = 0;
  }
  block_sync();
}

// Some k-blocks of one tile: 'rows' tokens of an expert times one weight tile.
struct Segment {
  int expert, rows;
  int64_t panel_row;    // of the first token
  int64_t weight_tile;  // within the expert
  int k_begin, k_end;
  bool first, whole;  // k_begin is 0; it is all of the tile
};

// A block's share of the tiles, in order. Weight tiles follow one another fastest, so that an expert's tokens stay in
// the L2 cache while its weights stream by. Either whole tiles, one in `blocks`, or, with `split`, an equal share of
// all k-blocks of all tiles ("stream-K"): then a tile at the edge of two shares is summed in parts.
class Work {
 public:
  GPU_DEVICE Work(const ExpertTable& table, int num_experts, int64_t weight_tiles, int k_blocks, int most_tile_tokens,
                  bool split)
      : table_(table),
        weight_tiles_(weight_tiles),
        k_blocks_(k_blocks),
        most_(most_tile_tokens),
        split_(split),
        tiles_(table.first_tile[num_experts] * weight_tiles) {}

  GPU_DEVICE int64_t units() const { return tiles_ * k_blocks_; }
  // Where the share of a block begins; share_begin(blocks) is the end of the last.
  GPU_DEVICE int64_t share_begin(int64_t block, int64_t blocks) const { return units() * block / blocks; }

  GPU_DEVICE void start(int64_t block, int64_t blocks) {
    next_ = split_ ? share_begin(block, blocks) : block * k_blocks_;
    end_ = split_ ? share_begin(block + 1, blocks) : units();
    step_ = split_ ? 0 : (blocks - 1) * k_blocks_;
  }

  GPU_DEVICE bool next(Segment& s) {
    if (next_ >= end_) return false;
    const int64_t tile = next_ / k_blocks_, stop = (tile + 1) * k_blocks_;
    s.k_begin = static_cast<int>(next_ - tile * k_blocks_);
    s.k_end = static_cast<int>((stop < end_ ? stop : end_) - tile * k_blocks_);
    locate(tile, s);
    next_ = (stop < end_ ? stop : end_) + step_;
    return true;
  }

  // The whole of a tile; tiles must be asked for in rising order.
  GPU_DEVICE void locate(int64_t tile, Segment& s) {
    const int token_tile = static_cast<int>(tile / weight_tiles_);
    while (table_.first_tile[expert_ + 1] <= token_tile) ++expert_;
    const int rows = table_.rows(expert_), size = tile_tokens(rows, most_);
    const int first = (token_tile - table_.first_tile[expert_]) * size;
    s.expert = expert_;
    s.rows = rows - first < size ? rows - first : size;
    s.panel_row = int64_t{table_.panel_start[expert_]} + first;
    s.weight_tile = tile % weight_tiles_;
    s.first = s.k_begin == 0;
    s.whole = s.first && s.k_end == k_blocks_;
  }

 private:
  const ExpertTable table_;
  const int64_t weight_tiles_;
  const int k_blocks_, most_;
  const bool split_;
  const int64_t tiles_;
  int64_t next_ = 0, end_ = 0, step_ = 0;
  int expert_ = 0;
};

}  // namespace openmoe::gpu
