// The wrappers of gpu/gpu.h as PTX. Names in quotes are sections of the PTX ISA. Hopper instructions exist only in the
// sm_90a build; in the sm_80 build the kernels that use them are never launched and trap.
#pragma once

#include <type_traits>

#define GPU_KERNEL(threads, blocks_per_sm) __global__ __launch_bounds__(threads, blocks_per_sm)
#define GPU_DEVICE __device__ __forceinline__
#define GPU_UNROLL _Pragma("unroll")

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define GPU_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else
#define GPU_HOPPER_ASM(...) __trap()
#pragma nv_diag_suppress 177  // operands of Hopper instructions are unused here
#endif

#include "gpu/wgmma_ptx.h"

namespace openmoe::gpu {

GPU_DEVICE int thread_id() { return static_cast<int>(threadIdx.x); }
GPU_DEVICE int num_threads() { return static_cast<int>(blockDim.x); }
GPU_DEVICE int64_t block_id() { return blockIdx.x; }
GPU_DEVICE int64_t num_blocks() { return gridDim.x; }

GPU_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// ---- meeting points

GPU_DEVICE void block_sync() { __syncthreads(); }

// An immediate id: with a register ptxas reserves all 16 barriers.
template <int kId, int kThreads>
GPU_DEVICE void named_sync() {
  static_assert(kId > 0 && kId < 16 && kThreads % kWarp == 0);
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}

GPU_DEVICE void warp_sync() { __syncwarp(); }

template <class T>
GPU_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(~0u, value, lane);
}
template <class T>
GPU_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}
template <class T>
GPU_DEVICE T shuffle_up(T value, int delta) {
  return __shfl_up_sync(~0u, value, delta);
}
GPU_DEVICE uint32_t ballot(bool predicate) { return __ballot_sync(~0u, predicate); }
GPU_DEVICE uint32_t match_any(uint32_t value) { return __match_any_sync(~0u, value); }
GPU_DEVICE int popcount(uint32_t bits) { return __popc(bits); }
GPU_DEVICE int lowest_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }

// ---- memory

GPU_DEVICE std::byte* shared_memory() {
  extern __shared__ __align__(1024) std::byte openmoe_shared[];
  return openmoe_shared;
}

template <class T>
GPU_DEVICE T load(const T* p) {
  return *p;
}
template <class T>
GPU_DEVICE void store(T* p, std::type_identity_t<T> value) {
  *p = value;
}

template <class T>
GPU_DEVICE T load_once(const T* p) {
  if constexpr (sizeof(T) == 16) {
    Vec16 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(p));
    return __builtin_bit_cast(T, v);
  } else {
    return __ldcs(p);
  }
}

template <class T>
GPU_DEVICE void store_shared(T* p, std::type_identity_t<T> value) {
  *p = value;
}

GPU_DEVICE void fence_async_shared() { GPU_HOPPER_ASM("fence.proxy.async.shared::cta;" :: : "memory"); }

// ---- sm_80: "cp.async", "ldmatrix", "stmatrix", "mma.m16n8k16"

GPU_DEVICE void copy_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
GPU_DEVICE void copy_async16(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
GPU_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
GPU_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

GPU_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Before sm_90 there is no stmatrix: transpose in registers, then lane t owns row t / 4 and two of its columns.
GPU_DEVICE void stmatrix_trans_one(void* row, uint32_t r, int matrix) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(r));
  const int lane = threadIdx.x % kWarp;
  const uint32_t address = __shfl_sync(~0u, shared_address(row), matrix * 8 + lane / 4) + lane % 4 * 4;
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(transposed) : "memory");
}

GPU_DEVICE void stmatrix_trans_x4(void* row, const uint32_t (&r)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#else
  for (int i = 0; i < 4; ++i) stmatrix_trans_one(row, r[i], i);
#endif
}

GPU_DEVICE void stmatrix_trans_x2(void* row, const uint32_t (&r)[2]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),
               "r"(r[0]), "r"(r[1])
               : "memory");
#else
  for (int i = 0; i < 2; ++i) stmatrix_trans_one(row, r[i], i);
#endif
}

GPU_DEVICE void mma_m16n8k16(float& c0, float& c1, float& c2, float& c3, const uint32_t (&a)[4], uint32_t b0,
                             uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- sm_90: "mbarrier", "cp.async.bulk"

GPU_DEVICE void barrier_init(Barrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
GPU_DEVICE void fence_barrier_init() { GPU_HOPPER_ASM("fence.mbarrier_init.release.cluster;" :: : "memory"); }
GPU_DEVICE void barrier_expect(Barrier* b, uint32_t bytes) {
  GPU_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
                 "r"(bytes) : "memory");
}
GPU_DEVICE void barrier_arrive(Barrier* b) {
  GPU_HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
GPU_DEVICE void barrier_wait(Barrier* b, uint32_t parity) {
  uint32_t done = 0;
  // try_wait gives up after a while, so loop. The predicate lives in braces: a label or register name may not repeat.
  do {
    GPU_HOPPER_ASM(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }" : "=r"(
            done) : "r"(shared_address(b)),
        "r"(parity) : "memory");
  } while (!done);
}

GPU_DEVICE void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* b, L2 hint = L2::normal) {
  // The policies cutlass calls EVICT_NORMAL, EVICT_FIRST and EVICT_LAST, as createpolicy.fractional encodes them.
  const uint64_t policy = hint == L2::evict_first  ? 0x12F0000000000000
                          : hint == L2::evict_last ? 0x14F0000000000000
                                                   : 0x1000000000000000;
  GPU_HOPPER_ASM(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(b)), "l"(policy) : "memory");
}
GPU_DEVICE void bulk_store(void* global, const void* shared, uint32_t bytes) {
  GPU_HOPPER_ASM("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
                 "r"(shared_address(shared)), "r"(bytes) : "memory");
}
GPU_DEVICE void bulk_commit() { GPU_HOPPER_ASM("cp.async.bulk.commit_group;" :: : "memory"); }
GPU_DEVICE void bulk_wait_read() { GPU_HOPPER_ASM("cp.async.bulk.wait_group.read 0;" :: : "memory"); }
GPU_DEVICE void bulk_wait() { GPU_HOPPER_ASM("cp.async.bulk.wait_group 0;" :: : "memory"); }

// ---- sm_90a: "wgmma.mma_async", "setmaxnreg", "griddepcontrol"

// Bits: 0-13 address / 16, 16-29 leading byte offset / 16, 32-45 stride byte offset / 16, 62-63 128-byte swizzle.
GPU_DEVICE uint64_t descriptor_bits(const void* shared, uint32_t leading, uint32_t stride) {
  return static_cast<uint64_t>((shared_address(shared) & 0x3FFFF) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | uint64_t{1} << 62;
}
GPU_DEVICE MatrixDescriptor<Major::k> matrix_descriptor(const void* shared, uint32_t group_stride) {
  return {descriptor_bits(shared, 16, group_stride)};  // the leading byte offset is unused; 16 as CUTLASS writes it
}
GPU_DEVICE MatrixDescriptor<Major::mn> matrix_descriptor_mn(const void* shared, uint32_t group_stride,
                                                            uint32_t block_stride) {
  return {descriptor_bits(shared, block_stride, group_stride)};
}

GPU_DEVICE void wgmma_fence() { GPU_HOPPER_ASM("wgmma.fence.sync.aligned;" :: : "memory"); }
GPU_DEVICE void wgmma_commit() { GPU_HOPPER_ASM("wgmma.commit_group.sync.aligned;" :: : "memory"); }
template <int kPending>
GPU_DEVICE void wgmma_wait() {
  GPU_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The empty asm makes the compiler believe that the wait wrote d, so it cannot read d earlier.
template <int kTiles, int kRegisters>
GPU_DEVICE void wgmma_wait_all(float (&d)[kTiles][kRegisters]) {
  wgmma_wait<0>();
  GPU_UNROLL for (int m = 0; m < kTiles; ++m)
      GPU_UNROLL for (int i = 0; i < kRegisters; ++i) asm volatile("" : "+f"(d[m][i])::"memory");
}

template <int kRegisters>
GPU_DEVICE void registers_release() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  GPU_HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
GPU_DEVICE void registers_claim() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  GPU_HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

GPU_DEVICE void launch_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
GPU_DEVICE void launch_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- arithmetic

GPU_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
GPU_DEVICE float exp(float x) { return ::expf(x); }
GPU_DEVICE float exp_fast(float x) { return __expf(x); }
GPU_DEVICE float rsqrt(float x) { return ::rsqrtf(x); }
GPU_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

}  // namespace openmoe::gpu
