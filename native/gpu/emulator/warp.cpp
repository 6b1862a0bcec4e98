// Meeting points, and what the lanes of a warp do together.
#include <cstring>

#include "gpu/emulator/block.h"

namespace openmoe::gpu {

using emulator::Block;
using emulator::Thread;

void block_sync(Site site) {
  Block& block = Block::current("block_sync", site);
  block.meet(block.all, block.num_threads, "block_sync", site, [] {});
}

void warp_sync(Site site) {
  Block& block = Block::current("warp_sync", site);
  block.meet(block.warp_meeting(), kWarp, "warp_sync", site, [] {});
}

namespace emulator {

void named_sync(int id, int threads, Site site) {
  Block& block = Block::current("named_sync", site);
  block.meet(block.named[id], threads, "named_sync", site, [] {});
}

namespace {

uint32_t exchanged(Exchange kind, const Thread* lanes, int lane) {
  switch (kind) {
    case Exchange::shuffle:
      return lanes[lanes[lane].operand & (kWarp - 1)].value;
    case Exchange::shuffle_xor:
      return lanes[(lane ^ lanes[lane].operand) & (kWarp - 1)].value;
    case Exchange::shuffle_up:
      return lanes[lane >= lanes[lane].operand ? lane - lanes[lane].operand : lane].value;
    case Exchange::ballot:
    case Exchange::match_any:
      break;
  }
  uint32_t bits = 0;
  for (int i = 0; i < kWarp; ++i) {
    const bool set = kind == Exchange::ballot ? lanes[i].value != 0 : lanes[i].value == lanes[lane].value;
    bits |= static_cast<uint32_t>(set) << i;
  }
  return bits;
}

float bf16_at(uint32_t pair, int half) { return to_float({static_cast<uint16_t>(pair >> (16 * half))}); }

// Fragments as "mma.m16n8k16" lays them out: lane l holds rows l / 4 and l / 4 + 8 of a and c, column l / 4 of b.
void warp_mma(Thread* lanes) {
  float a[16][16], b[8][16];
  for (int l = 0; l < kWarp; ++l) {
    const int group = l / 4, pair = l % 4 * 2;
    for (int i = 0; i < 4; ++i)
      for (int h = 0; h < 2; ++h) a[group + i % 2 * 8][pair + h + i / 2 * 8] = bf16_at(lanes[l].a[i], h);
    for (int h = 0; h < 2; ++h) {
      b[group][pair + h] = bf16_at(lanes[l].b0, h);
      b[group][pair + h + 8] = bf16_at(lanes[l].b1, h);
    }
  }
  for (int l = 0; l < kWarp; ++l)
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
      float sum = *lanes[l].c[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[column][k];
      *lanes[l].c[i] = sum;
    }
}

}  // namespace

uint32_t exchange(Exchange kind, uint32_t value, int operand, Site site) {
  static constexpr const char* kNames[] = {"shuffle", "shuffle_xor", "shuffle_up", "ballot", "match_any"};
  const char* what = kNames[static_cast<int>(kind)];
  Block& block = Block::current(what, site);
  Thread& me = block.self();
  me.value = value;
  me.operand = operand;
  Thread* lanes = block.warp_threads();
  block.meet(block.warp_meeting(), kWarp, what, site, [&] {
    for (int lane = 0; lane < kWarp; ++lane) lanes[lane].result = exchanged(kind, lanes, lane);
  });
  return me.result;
}

void stmatrix_trans(void* row, const uint32_t* r, int count, Site site) {
  Block& block = Block::current("stmatrix", site);
  Thread& me = block.self();
  me.row = row;
  me.stored = r;
  if (me.id % kWarp < 8 * count) block.wrote(me, block.offset(row, 16, 16, "stmatrix", site), 16);
  Thread* lanes = block.warp_threads();
  block.meet(block.warp_meeting(), kWarp, "stmatrix", site, [&] {
    for (int m = 0; m < count; ++m)
      for (int lane = 0; lane < kWarp; ++lane)
        for (int h = 0; h < 2; ++h) {
          const auto bits = static_cast<uint16_t>(lanes[lane].stored[m] >> (16 * h));
          auto* to = static_cast<const std::byte*>(lanes[8 * m + lane % 4 * 2 + h].row) + lane / 4 * 2;
          std::memcpy(const_cast<std::byte*>(to), &bits, 2);
        }
  });
}

}  // namespace emulator

void ldmatrix_x4(uint32_t (&r)[4], const void* row, Site site) {
  Block& block = Block::current("ldmatrix", site);
  Thread& me = block.self();
  block.offset(row, 16, 16, "ldmatrix", site);
  me.row = row;
  me.registers = r;
  Thread* lanes = block.warp_threads();
  block.meet(block.warp_meeting(), kWarp, "ldmatrix", site, [&] {
    for (int m = 0; m < 4; ++m)
      for (int lane = 0; lane < kWarp; ++lane)
        std::memcpy(&lanes[lane].registers[m],
                    static_cast<const std::byte*>(lanes[8 * m + lane / 4].row) + lane % 4 * 4, 4);
  });
}

void mma_m16n8k16(float& c0, float& c1, float& c2, float& c3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  Site site) {
  Block& block = Block::current("mma_m16n8k16", site);
  Thread& me = block.self();
  me.a = a;
  me.b0 = b0;
  me.b1 = b1;
  float* c[4] = {&c0, &c1, &c2, &c3};
  std::memcpy(me.c, c, sizeof c);
  block.meet(block.warp_meeting(), kWarp, "mma_m16n8k16", site, [&] { emulator::warp_mma(block.warp_threads()); });
}

}  // namespace openmoe::gpu
