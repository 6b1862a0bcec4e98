// The one header of GPU code. A kernel is written once against the wrappers below and compiled twice: by nvcc, where
// gpu/ptx.h maps them to PTX, and by the host compiler, where gpu/emulator.h runs every CUDA thread as a fiber and
// checks the rules each wrapper comes with (docs/testing-without-a-gpu.md). Kernels hold no asm and no CUDA keyword.
//
//   GPU_KERNEL(threads, blocks_per_sm) void name(args)   a kernel; its launcher stands right under it
//   GPU_DEVICE                                           a function called by kernels (constexpr ones need no mark)
//   GPU_UNROLL                                           before a loop whose index selects registers
//
// Where a thread is:
//   thread_id() num_threads() block_id() num_blocks()    1-D; blocks are whole warps
//   lane_id() warp_id()                                  thread_id() % 32, / 32
//
// Meeting points (every thread or lane of the group calls the same line):
//   block_sync()                                         the whole block
//   named_sync<id, threads>()                            `threads` threads of the block, ids 1-15
//   warp_sync()
//   shuffle(v, lane) shuffle_xor(v, mask) shuffle_up(v, delta)   32-bit v; shuffle_up keeps v below `delta`
//   ballot(predicate) match_any(value)                   a bit per lane
//   popcount(bits) lowest_bit(bits)                      no meeting point; lowest_bit(0) is -1
//
// Memory:
//   shared_memory()                                      the launch's shared bytes, 1024-aligned; plain pointers work
//   load(p) store(p, v)                                  global memory, 1, 2, 4, 8 or 16 bytes (Vec16). The only way
//                                                        to touch it: device pointers cannot be dereferenced
//   load_once(p)                                         load() of what no other thread reads: stays out of L1
//   store_shared(p, v)                                   shared memory that a bulk store or wgmma will read
//   fence_async_shared()                                 after it this thread's store_shared() and stmatrix may be read
//                                                        by bulk stores and wgmma, once a barrier has told their issuer
//
// sm_80, ordinary asynchronous copies (16 bytes a thread):
//   copy_async16(shared, global)  copy_async_commit()  copy_async_wait<pending groups>()
//   copy_async16(shared, global, bytes)                  reads 0 to 16 bytes and fills up with zeros: the last keys and
//                                                        values of a sequence, for attention
//   ldmatrix_x4(r, row)                                  four 8x8 b16 matrices; lane i gives row i % 8 of matrix i / 8
//   stmatrix_trans_x4(row, r)  stmatrix_trans_x2(row, r) the mirror, transposed: lane t holds column t / 4
//   mma_m16n8k16(c0, c1, c2, c3, a, b0, b1)              bf16 operands, f32 accumulators
//
// sm_90, bulk copies and the warpgroup tensor core (a kernel path for stream.arch() == 90):
//   barrier_init(b, arrivals) fence_barrier_init()       one thread, then block_sync()
//   barrier_expect(b, bytes)                             an arrival that also announces bytes
//   barrier_arrive(b)  barrier_wait(b, parity)           waits until the phase of that parity is over
//   bulk_load(shared, global, bytes, b, L2::x)           16-byte units; arrives at b with its bytes
//   bulk_store(global, shared, bytes)  bulk_commit()     the source may change after bulk_wait_read(),
//   bulk_wait_read()  bulk_wait()                        the target is written after bulk_wait(); same thread
//   matrix_descriptor(shared, group_stride)              K-major bf16 rows of 128 bytes, 128-byte swizzle; group_stride
//                                                        is the bytes between groups of 8 rows
//   matrix_descriptor_mn(shared, group_stride, block_stride)
//                                                        MN-major: rows of 128 bytes are k, with 64 of the M of a or
//                                                        the N of b, a block; block_stride is the bytes between blocks.
//                                                        For the values of attention, whose rows are keys
//   wgmma<N>(d, a, b)                                    d[64 x N] += a[64 x 16] b[N x 16]^T, a warpgroup together;
//                                                        N is a multiple of 64 where b is MN-major
//   wgmma_fence()                                        before the first wgmma and after touching d
//   wgmma_commit()  wgmma_wait<pending groups>()         until then d and the operands belong to the tensor core
//   wgmma_wait_all(d[][])                                wait<0>, and d is readable
//   registers_release<n>() registers_claim<n>()          a warpgroup moves registers from producer to consumers
//
// Launch order:
//   launch_wait()                                        before touching what earlier kernels wrote (Launch::overlap)
//   launch_next()                                        the next kernel of the stream may start its launch_wait()
//
// Arithmetic (compiled without contraction: a fused multiply-add is written fma):
//   fma(a, b, c) exp(x) exp_fast(x) rsqrt(x)  pack_bf16(low, high)
#pragma once

#include <cstddef>
#include <cstdint>

namespace openmoe::gpu {

struct alignas(16) Vec16 {
  uint32_t word[4];
};

// An mbarrier in shared memory.
struct Barrier {
  uint64_t state;
};

// Which way the numbers of a wgmma's operand follow each other in shared memory: along k, or along its other dimension.
enum class Major { k, mn };

// Of an operand in shared memory, for wgmma. The bits do not hold the direction, the instruction does: hence the type.
template <Major kMajor>
struct MatrixDescriptor {
  uint64_t bits;
};

// How long the L2 cache should keep what a bulk load reads.
enum class L2 { normal, evict_first, evict_last };

constexpr int kWarp = 32;
constexpr int kWarpgroup = 128;

// Shared memory a block may have: on Hopper, and on every device from sm_80 on (sm_86 and sm_89 have the least).
constexpr size_t kMostShared90 = 232448;
constexpr size_t kMostShared80 = 101376;

}  // namespace openmoe::gpu

#if defined(__CUDACC__)
#include "gpu/ptx.h"
#else
#include "gpu/emulator.h"
#endif

namespace openmoe::gpu {

GPU_DEVICE int lane_id() { return thread_id() % kWarp; }
GPU_DEVICE int warp_id() { return thread_id() / kWarp; }

}  // namespace openmoe::gpu
