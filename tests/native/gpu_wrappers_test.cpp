// Each wrapper of gpu/gpu.h in the emulator against what the PTX manual says it computes, written out a second time.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "gpu/emulator/machine.h"
#include "gpu/gpu.h"
#include "gpu/tile_image.h"
#include "support/error.h"

namespace openmoe::gpu {
namespace {

using test::expect;

template <class T>
struct DeviceArray {
  DeviceArray(Machine& machine, size_t count)
      : machine(machine), count(count), data(static_cast<T*>(machine.allocate(count * sizeof(T)))) {}
  DeviceArray(Machine& machine, const std::vector<T>& from) : DeviceArray(machine, from.size()) {
    machine.write(data, from.data(), count * sizeof(T));
  }
  ~DeviceArray() { machine.free(data); }
  std::vector<T> read() const {
    std::vector<T> to(count);
    machine.read(to.data(), data, count * sizeof(T));
    return to;
  }
  Machine& machine;
  size_t count;
  T* data;
};

std::vector<uint16_t> random_bf16(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> out(count);
  for (uint16_t& v : out) v = to_bf16(normal(random)).bits;
  return out;
}

// Runs 128 threads that each write some words; word i of thread t is out[t * words + i].
std::vector<uint32_t> run_threads(uint64_t seed, int words, void (*kernel)(uint32_t*), size_t shared_bytes = 4096) {
  Machine machine({.seed = seed});
  MachineStream stream(machine);
  DeviceArray<uint32_t> out(machine, size_t(128) * words);
  stream.launch({"test", 1, 128, shared_bytes}, kernel, out.data);
  return out.read();
}

void lanes_exchange(uint64_t seed) {
  const auto out = run_threads(seed, 6, [](uint32_t* out) {
    const int t = thread_id();
    uint32_t* mine = out + t * 6;
    store(mine, shuffle(t * 3u, (t + 5) % 32));
    store(mine + 1, shuffle_xor(t * 3u, 9));
    store(mine + 2, shuffle_up(t * 3u, 4));
    store(mine + 3, ballot(t % 3 == 0));
    store(mine + 4, match_any(t % 5));
    store(mine + 5, static_cast<uint32_t>(popcount(0xf0f0u) + lowest_bit(8) + lowest_bit(0)));
  });
  for (uint32_t t = 0; t < 128; ++t) {
    const uint32_t base = t / 32 * 32, lane = t % 32;
    uint32_t thirds = 0, same = 0;
    for (uint32_t i = 0; i < 32; ++i) {
      thirds |= uint32_t{(base + i) % 3 == 0} << i;
      same |= uint32_t{(base + i) % 5 == t % 5} << i;
    }
    expect(out[t * 6] == (base + (t + 5) % 32) * 3, "shuffle");
    expect(out[t * 6 + 1] == (base + (lane ^ 9)) * 3, "shuffle_xor");
    expect(out[t * 6 + 2] == (lane < 4 ? t : t - 4) * 3, "shuffle_up");
    expect(out[t * 6 + 3] == thirds, "ballot");
    expect(out[t * 6 + 4] == same, "match_any");
    expect(out[t * 6 + 5] == 8 + 3 - 1, "popcount, lowest_bit");
  }
}

void meeting_points(uint64_t seed) {
  const auto out = run_threads(seed, 3, [](uint32_t* out) {
    auto* s = reinterpret_cast<uint32_t*>(shared_memory());
    const int t = thread_id();
    s[t] = t;
    block_sync();
    store(out + t * 3, s[127 - t]);
    block_sync();
    s[t] = t + 1;
    if (t < 64)
      named_sync<1, 64>();
    else
      named_sync<2, 64>();
    store(out + t * 3 + 1, s[t ^ 63]);
    block_sync();
    s[t] = t + 2;
    warp_sync();
    store(out + t * 3 + 2, s[t ^ 31]);
  });
  for (uint32_t t = 0; t < 128; ++t) {
    expect(out[t * 3] == 127 - t, "block_sync");
    expect(out[t * 3 + 1] == (t ^ 63) + 1, "named_sync");
    expect(out[t * 3 + 2] == (t ^ 31) + 2, "warp_sync");
  }
}

void memory_of_every_width(uint64_t seed) {
  Machine machine({.seed = seed, .memory_bytes = size_t{16} << 30});
  MachineStream stream(machine);
  constexpr size_t kBytes = size_t{9} << 30;
  DeviceArray<std::byte> big(machine, kBytes);
  stream.launch(
      {"test", 1, 32, 0},
      +[](std::byte* p) {
        p += (int64_t{1} << 33) + thread_id() * 32;
        store(reinterpret_cast<uint8_t*>(p), 1);
        store(reinterpret_cast<uint16_t*>(p) + 1, load(reinterpret_cast<uint8_t*>(p)));
        store(reinterpret_cast<uint32_t*>(p) + 1, load(reinterpret_cast<uint16_t*>(p) + 1));
        store(reinterpret_cast<uint64_t*>(p) + 1, load(reinterpret_cast<uint32_t*>(p) + 1));
        store(reinterpret_cast<Vec16*>(p) + 1, load_once(reinterpret_cast<Vec16*>(p)));
      },
      big.data);
  std::vector<uint32_t> words(8 * 32);
  machine.read(words.data(), big.data + (size_t{1} << 33), words.size() * 4);
  for (int t = 0; t < 32; ++t) {
    const uint32_t* w = &words[t * 8];
    expect((w[0] & 0xff) == 1 && w[0] >> 16 == 1 && w[1] == 1 && w[2] == 1 && w[3] == 0, "1 to 8 bytes beyond 2^33");
    expect(std::memcmp(w, w + 4, 16) == 0, "16 bytes beyond 2^33");
  }
}

void matrices_in_registers(uint64_t seed) {
  Machine machine({.arch = 80, .seed = seed});
  MachineStream stream(machine);
  const auto a = random_bf16(16 * 16, 1), b = random_bf16(16 * 16, 2);
  DeviceArray<uint16_t> da(machine, a), db(machine, b);
  DeviceArray<float> c(machine, 16 * 16);
  DeviceArray<uint32_t> transposed(machine, 2 * 16 * 8);
  stream.launch(
      {"test", 1, 32, 2048},
      +[](const uint16_t* a, const uint16_t* b, float* c, uint32_t* transposed) {
        std::byte* s = shared_memory();  // a, then b, 32 bytes a row; then the transposed a and its half
        const int lane = lane_id();
        copy_async16(s + lane * 16, a + lane * 8);
        copy_async_commit();
        copy_async16(s + 512 + lane * 16, b + lane * 8);
        copy_async_commit();
        copy_async_wait<0>();
        warp_sync();
        uint32_t ra[4], rb[4];
        ldmatrix_x4(ra, s + (lane % 16) * 32 + lane / 16 * 16);
        ldmatrix_x4(rb, s + 512 + (lane % 8 + lane / 16 * 8) * 32 + lane / 8 % 2 * 16);
        for (int half = 0; half < 2; ++half) {
          float d[4] = {1, 2, 3, 4};
          mma_m16n8k16(d[0], d[1], d[2], d[3], ra, rb[2 * half], rb[2 * half + 1]);
          for (int i = 0; i < 4; ++i) store(c + (lane / 4 + i / 2 * 8) * 16 + half * 8 + lane % 4 * 2 + i % 2, d[i]);
        }
        // Transposing a's four matrices in place: rows of the result are columns of a.
        stmatrix_trans_x4(s + 1024 + (lane % 8 + lane / 16 * 8) * 32 + lane / 8 % 2 * 16, ra);
        const uint32_t left[2] = {ra[0], ra[1]};
        stmatrix_trans_x2(s + 1536 + lane % 8 * 32 + lane / 8 % 2 * 16, left);
        warp_sync();
        for (int i = lane; i < 128; i += 32) store(transposed + i, reinterpret_cast<uint32_t*>(s + 1024)[i]);
        for (int i = lane; i < 64; i += 32) store(transposed + 128 + i, reinterpret_cast<uint32_t*>(s + 1536)[i]);
      },
      static_cast<const uint16_t*>(da.data), static_cast<const uint16_t*>(db.data), c.data, transposed.data);
  const auto sums = c.read();
  const auto words = transposed.read();
  const auto* t = reinterpret_cast<const uint16_t*>(words.data());
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      double want = 1 + row / 8 * 2 + column % 2;
      for (int k = 0; k < 16; ++k) want += double{to_float({a[row * 16 + k]})} * to_float({b[column * 16 + k]});
      expect(std::abs(sums[row * 16 + column] - want) < 1e-4, "ldmatrix and mma_m16n8k16");
      expect(t[row * 16 + column] == a[column * 16 + row], "stmatrix_trans_x4");
      if (row < 8) expect(t[256 + row * 16 + column] == a[column * 16 + row], "stmatrix_trans_x2");
    }
}

constexpr int kRounds = 5;

// Streams kRounds pairs of operands through one stage, adds up their products, stores them with a bulk store.
template <int N, int kGroupStride>
void wgmma_kernel(const std::byte* a, const std::byte* b, float* c) {
  constexpr int kA = 8 * kGroupStride, kB = N * kRowBytes;
  std::byte* s = shared_memory();
  auto* full = reinterpret_cast<Barrier*>(s + kA + kB);
  auto* staging = reinterpret_cast<float*>(s + kA + kB + 1024);
  const int t = thread_id(), warp = warp_id(), lane = lane_id();
  if (t == 0) {
    barrier_init(full, 1);
    fence_barrier_init();
  }
  block_sync();
  float d[1][N / 2];
  for (float& v : d[0]) v = 0;
  for (int round = 0; round < kRounds; ++round) {
    if (t == 0) {
      barrier_expect(full, kA + kB);
      for (int group = 0; group < 8; ++group)  // groups of 8 rows, kGroupStride apart
        bulk_load(s + group * kGroupStride, a + round * kA + group * kGroupStride, kGroupStride, full);
      bulk_load(s + kA, b + round * kB, kB, full);
    }
    barrier_wait(full, round & 1);
    wgmma_fence();
    for (int step = 0; step < 4; ++step)
      wgmma<N>(d[0], matrix_descriptor(s + step * 32, kGroupStride), matrix_descriptor(s + kA + step * 32, 1024));
    wgmma_commit();
    wgmma_wait_all(d);
    block_sync();
  }
  for (int i = 0; i < N / 2; ++i)
    store_shared(staging + (16 * warp + lane / 4 + (i >> 1 & 1) * 8) * N + (i >> 2) * 8 + lane % 4 * 2 + (i & 1),
                 d[0][i]);
  fence_async_shared();
  block_sync();
  if (t == 0) {
    bulk_store(c, staging, 64 * N * 4);
    bulk_commit();
    bulk_wait();
  }
}

template <int N, int kGroupStride>
void warpgroup_multiplies(uint64_t seed) {
  Machine machine({.seed = seed});
  MachineStream stream(machine);
  const auto a = random_bf16(size_t(kRounds) * 8 * kGroupStride / 2, 3), b = random_bf16(size_t(kRounds) * N * 64, 4);
  DeviceArray<uint16_t> da(machine, a), db(machine, b);
  DeviceArray<float> c(machine, 64 * N);
  stream.launch({"test", 1, 128, 8 * kGroupStride + N * 128 + 1024 + 64 * N * 4}, wgmma_kernel<N, kGroupStride>,
                reinterpret_cast<const std::byte*>(da.data), reinterpret_cast<const std::byte*>(db.data), c.data);
  const auto got = c.read();
  double error = 0;
  for (int row = 0; row < 64; ++row)
    for (int column = 0; column < N; ++column) {
      double want = 0;
      for (int round = 0; round < kRounds; ++round)
        for (int k = 0; k < 64; ++k) {
          const int64_t at = row / 8 * kGroupStride + swizzled(row % 8, k);
          want += double{to_float({a[(round * 8 * kGroupStride + at) / 2]})} *
                  to_float({b[(round * N * 128 + swizzled(column, k)) / 2]});
        }
      error = std::max(error, std::abs(got[row * N + column] - want));
    }
  expect(error < 1e-3, "wgmma<" + std::to_string(N) + ">, groups " + std::to_string(kGroupStride) + " apart");
}

// What a kernel computes must not depend on the schedule.
void schedules_differ() {
  std::vector<std::vector<uint32_t>> orders;
  for (uint64_t seed = 0; seed < 4; ++seed)
    orders.push_back(run_threads(seed, 1, [](uint32_t* out) {
      auto* count = reinterpret_cast<uint32_t*>(shared_memory());
      if (thread_id() == 0) *count = 0;
      block_sync();
      store(out + thread_id(), (*count)++);
    }));
  expect(orders[0] != orders[1] && orders[1] != orders[2], "seeds give different schedules");
  expect(orders[0] == run_threads(0, 1,
                                  [](uint32_t* out) {
                                    auto* count = reinterpret_cast<uint32_t*>(shared_memory());
                                    if (thread_id() == 0) *count = 0;
                                    block_sync();
                                    store(out + thread_id(), (*count)++);
                                  }),
         "a seed gives one schedule");
}

void arithmetic() {
  expect(fma(3, 5, 7) == 22 && rsqrt(4) == 0.5f && exp(0) == 1 && exp_fast(0) == 1, "fma, rsqrt, exp");
  expect(pack_bf16(1, -2) == 0xc0003f80, "pack_bf16");
}

void layouts() {
  // Every number of a matrix has a place of its own, and weight_row() finds the way back.
  for (const auto& [kind, out_features] : {std::pair{WeightKind::plain, 200}, {WeightKind::gate_up, 3 * 72}}) {
    const WeightImage image = weight_image(kind, out_features, 70);
    std::vector<int> taken(image.expert_bytes() / 2);
    for (int out = 0; out < out_features; ++out)
      for (int in = 0; in < 70; ++in) ++taken[weight_offset(image, out_features, 0, out, in) / 2];
    for (int n : taken) expect(n <= 1, "places of weights are distinct");
    int rows = 0;
    for (int tile = 0; tile < image.tiles; ++tile)
      for (int row = 0; row < image.rows; ++row) {
        const int64_t out = weight_row(image, out_features, tile, row);
        if (out < 0) continue;
        ++rows;
        expect(weight_offset(image, out_features, 2, out, 65) ==
                   2 * image.expert_bytes() + tile * image.tile_bytes() + image.block_bytes() + swizzled(row, 1),
               "weight_row is the reverse of weight_offset");
      }
    expect(rows == out_features, "weight_row finds every row");
  }
  expect(panel_rows(10, 3) == 32 && panel_bytes(10, 3, 65) == 2 * 32 * 128, "panel size");
  expect(panel_offset(32, 9, 64 + 8) == 32 * 128 + 9 * 128, "panel offset");  // chunk 1 of row 9 is at 1 ^ 1
}

int main() {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    lanes_exchange(seed);
    meeting_points(seed);
    memory_of_every_width(seed);
    matrices_in_registers(seed);
    warpgroup_multiplies<8, 1024>(seed);
    warpgroup_multiplies<16, 3072>(seed);
    warpgroup_multiplies<32, 1024>(seed);
    warpgroup_multiplies<64, 3072>(seed);
    warpgroup_multiplies<96, 1024>(seed);
    warpgroup_multiplies<128, 3072>(seed);
  }
  schedules_differ();
  arithmetic();
  layouts();
  return test::report();
}

}  // namespace
}  // namespace openmoe::gpu

int main() { return openmoe::gpu::main(); }
