// The wrappers of gpu/gpu.h on the host: each CUDA thread is a fiber of one emulated block (gpu/emulator/). A rule that
// is broken becomes an openmoe::Error out of Stream::launch, naming kernel, block, thread, wrapper and source line.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "support/bf16.h"

#define GPU_KERNEL(threads, blocks_per_sm)
#define GPU_DEVICE inline
#define GPU_UNROLL

namespace openmoe::gpu {

// Where a wrapper was called.
struct Site {
  const char* file = nullptr;
  int line = 0;
  friend bool operator==(const Site&, const Site&) = default;
};
#define GPU_SITE Site site = {__builtin_FILE(), __builtin_LINE()}

namespace emulator {

// What a running thread may read without a call; switched with the fiber.
struct Here {
  int thread_id = 0, num_threads = 0;
  int64_t block_id = 0, num_blocks = 0;
  std::byte* shared = nullptr;
};
extern constinit thread_local Here here;

enum class Exchange { shuffle, shuffle_xor, shuffle_up, ballot, match_any };
uint32_t exchange(Exchange kind, uint32_t value, int operand, Site site);
void named_sync(int id, int threads, Site site);

// The host bytes of a range of device memory, checked. `write` also counts as the launch's output.
void* global(const void* address, size_t bytes, bool write, Site site);
void wrote_shared(const void* p, size_t bytes, Site site);

void copy_async_wait(int pending, Site site);
void stmatrix_trans(void* row, const uint32_t* r, int count, Site site);
struct SharedOperand {
  uint64_t descriptor;
  Major major;
  friend bool operator==(const SharedOperand&, const SharedOperand&) = default;
};
void wgmma(int n, float* d, SharedOperand a, SharedOperand b, Site site);
void wgmma_wait(int pending, Site site);
void move_registers(int count, bool claim, Site site);

}  // namespace emulator

inline int thread_id() { return emulator::here.thread_id; }
inline int num_threads() { return emulator::here.num_threads; }
inline int64_t block_id() { return emulator::here.block_id; }
inline int64_t num_blocks() { return emulator::here.num_blocks; }

// ---- meeting points

void block_sync(GPU_SITE);
void warp_sync(GPU_SITE);
template <int kId, int kThreads>
void named_sync(GPU_SITE) {
  static_assert(kId > 0 && kId < 16 && kThreads % kWarp == 0);
  emulator::named_sync(kId, kThreads, site);
}

template <class T>
T shuffle(T value, int lane, GPU_SITE) {
  static_assert(sizeof(T) == 4);
  return std::bit_cast<T>(emulator::exchange(emulator::Exchange::shuffle, std::bit_cast<uint32_t>(value), lane, site));
}
template <class T>
T shuffle_xor(T value, int mask, GPU_SITE) {
  static_assert(sizeof(T) == 4);
  return std::bit_cast<T>(
      emulator::exchange(emulator::Exchange::shuffle_xor, std::bit_cast<uint32_t>(value), mask, site));
}
template <class T>
T shuffle_up(T value, int delta, GPU_SITE) {
  static_assert(sizeof(T) == 4);
  return std::bit_cast<T>(
      emulator::exchange(emulator::Exchange::shuffle_up, std::bit_cast<uint32_t>(value), delta, site));
}
inline uint32_t ballot(bool predicate, GPU_SITE) {
  return emulator::exchange(emulator::Exchange::ballot, predicate, 0, site);
}
inline uint32_t match_any(uint32_t value, GPU_SITE) {
  return emulator::exchange(emulator::Exchange::match_any, value, 0, site);
}
inline int popcount(uint32_t bits) { return std::popcount(bits); }
inline int lowest_bit(uint32_t bits) { return bits == 0 ? -1 : std::countr_zero(bits); }

// ---- memory

inline std::byte* shared_memory() { return emulator::here.shared; }

template <class T>
T load(const T* p, GPU_SITE) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0);
  T value;
  std::memcpy(&value, emulator::global(p, sizeof(T), false, site), sizeof(T));
  return value;
}
template <class T>
T load_once(const T* p, GPU_SITE) {
  return load(p, site);
}
template <class T>
void store(T* p, std::type_identity_t<T> value, GPU_SITE) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0);
  std::memcpy(emulator::global(p, sizeof(T), true, site), &value, sizeof(T));
}
template <class T>
void store_shared(T* p, std::type_identity_t<T> value, GPU_SITE) {
  emulator::wrote_shared(p, sizeof(T), site);
  *p = value;
}
void fence_async_shared(GPU_SITE);

// ---- sm_80

void copy_async16(void* shared, const void* global, GPU_SITE);
void copy_async16(void* shared, const void* global, int bytes, GPU_SITE);
void copy_async_commit(GPU_SITE);
template <int kPending>
void copy_async_wait(GPU_SITE) {
  emulator::copy_async_wait(kPending, site);
}
void ldmatrix_x4(uint32_t (&r)[4], const void* row, GPU_SITE);
inline void stmatrix_trans_x4(void* row, const uint32_t (&r)[4], GPU_SITE) {
  emulator::stmatrix_trans(row, r, 4, site);
}
inline void stmatrix_trans_x2(void* row, const uint32_t (&r)[2], GPU_SITE) {
  emulator::stmatrix_trans(row, r, 2, site);
}
void mma_m16n8k16(float& c0, float& c1, float& c2, float& c3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  GPU_SITE);

// ---- sm_90

void barrier_init(Barrier* b, int arrivals, GPU_SITE);
void fence_barrier_init(GPU_SITE);
void barrier_expect(Barrier* b, uint32_t bytes, GPU_SITE);
void barrier_arrive(Barrier* b, GPU_SITE);
void barrier_wait(Barrier* b, uint32_t parity, GPU_SITE);
void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* b, L2 hint = L2::normal, GPU_SITE);
void bulk_store(void* global, const void* shared, uint32_t bytes, GPU_SITE);
void bulk_commit(GPU_SITE);
void bulk_wait_read(GPU_SITE);
void bulk_wait(GPU_SITE);

MatrixDescriptor<Major::k> matrix_descriptor(const void* shared, uint32_t group_stride, GPU_SITE);
MatrixDescriptor<Major::mn> matrix_descriptor_mn(const void* shared, uint32_t group_stride, uint32_t block_stride,
                                                 GPU_SITE);
template <int N, Major kA, Major kB>
void wgmma(float (&d)[N / 2], MatrixDescriptor<kA> a, MatrixDescriptor<kB> b, GPU_SITE) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  static_assert(kB == Major::k || N % 64 == 0);
  emulator::wgmma(N, d, {a.bits, kA}, {b.bits, kB}, site);
}
void wgmma_fence(GPU_SITE);
void wgmma_commit(GPU_SITE);
template <int kPending>
void wgmma_wait(GPU_SITE) {
  emulator::wgmma_wait(kPending, site);
}
template <int kTiles, int kRegisters>
void wgmma_wait_all(float (&)[kTiles][kRegisters], GPU_SITE) {
  emulator::wgmma_wait(0, site);
}
template <int kRegisters>
void registers_release(GPU_SITE) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emulator::move_registers(kRegisters, false, site);
}
template <int kRegisters>
void registers_claim(GPU_SITE) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emulator::move_registers(kRegisters, true, site);
}

void launch_wait(GPU_SITE);
void launch_next(GPU_SITE);

// ---- arithmetic

inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float exp(float x) { return std::exp(x); }
inline float exp_fast(float x) { return std::exp(x); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline uint32_t pack_bf16(float low, float high) {
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}

}  // namespace openmoe::gpu
