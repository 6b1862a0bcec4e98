// Asynchronous copies: cp.async in groups, bulk copies both ways with their barriers.
#pragma once

#include "case.h"

namespace openmoe::gpu::conformance {

constexpr int kCopyThreads = 128;

// ---- cp.async: a ring of stages, waiting with copies in flight

constexpr int kAsyncStages = 4, kAsyncRounds = 19;

GPU_KERNEL(kCopyThreads, 1) void copy_async_kernel(const uint32_t* in, uint32_t* out) {
  auto* s = reinterpret_cast<Vec16*>(shared_memory());
  const auto* from = reinterpret_cast<const Vec16*>(in);
  const int t = thread_id();
  const auto fetch = [&](int round) {
    if (round < kAsyncRounds)
      copy_async16(s + round % kAsyncStages * kCopyThreads + t, from + round * kCopyThreads + t);
    copy_async_commit();
  };
  for (int round = 0; round < kAsyncStages - 1; ++round) fetch(round);
  uint32_t sum = 0;
  for (int round = 0; round < kAsyncRounds; ++round) {
    copy_async_wait<kAsyncStages - 2>();
    block_sync();
    fetch(round + kAsyncStages - 1);
    const Vec16 v = s[round % kAsyncStages * kCopyThreads + (t * 5 + 1) % kCopyThreads];
    for (int i = 0; i < 4; ++i) sum = sum * 31 + v.word[i];
  }
  store(out + t, sum);
}

inline Words copy_async_expected() {
  const Words in = random_words(kAsyncRounds * kCopyThreads * 4, 11);
  Words out;
  for (int t = 0; t < kCopyThreads; ++t) {
    uint32_t sum = 0;
    for (int round = 0; round < kAsyncRounds; ++round)
      for (int i = 0; i < 4; ++i) sum = sum * 31 + in[(round * kCopyThreads + (t * 5 + 1) % kCopyThreads) * 4 + i];
    out.push_back(sum);
  }
  return out;
}

// ---- cp.async that fills up with zeros: thread t reads the first t % 17 of its 16 bytes, and nothing after the last

constexpr int kPartsIn = kCopyThreads * 4 - 2;  // words; the last thread reads 8 bytes

GPU_KERNEL(kCopyThreads, 1) void copy_part_kernel(const uint32_t* in, uint32_t* out) {
  auto* s = reinterpret_cast<Vec16*>(shared_memory()) + thread_id();
  *s = Vec16{{1, 2, 3, 4}};
  copy_async16(s, in + thread_id() * 4, thread_id() % 17);
  copy_async_commit();
  copy_async_wait<0>();
  store(reinterpret_cast<Vec16*>(out) + thread_id(), *s);
}

inline Words copy_part_expected() {
  const Words in = random_words(kPartsIn, 13);
  Words out(kCopyThreads * 4);
  for (size_t t = 0; t < kCopyThreads; ++t) std::memcpy(&out[t * 4], &in[t * 4], t % 17);
  return out;
}

// ---- bulk copies: one thread fills a ring of stages, 96 transform them, one of these sends them out again

constexpr int kBulkStages = 3, kBulkRounds = 17, kBulkWords = 96 * 4;

struct BulkShared {
  alignas(128) uint32_t stage[kBulkStages][kBulkWords];
  alignas(128) uint32_t staging[kBulkWords];
  Barrier full[kBulkStages], empty[kBulkStages];
};

GPU_DEVICE void bulk_producer(BulkShared& s, const uint32_t* in) {
  for (int round = 0; round < kBulkRounds; ++round) {
    const int stage = round % kBulkStages;
    barrier_wait(&s.empty[stage], (round / kBulkStages & 1) ^ 1);  // passes at once on a fresh barrier
    barrier_expect(&s.full[stage], kBulkWords * 4);
    const uint32_t* from = in + round * kBulkWords;
    // Pieces of several sizes, with each cache policy.
    bulk_load(s.stage[stage], from, 16, &s.full[stage]);
    bulk_load(s.stage[stage] + 4, from + 4, 496, &s.full[stage], L2::evict_first);
    bulk_load(s.stage[stage] + 128, from + 128, 1024, &s.full[stage], L2::evict_last);
  }
}

GPU_KERNEL(kCopyThreads, 1) void bulk_kernel(const uint32_t* in, uint32_t* out) {
  auto& s = *reinterpret_cast<BulkShared*>(shared_memory());
  const int t = thread_id();
  if (t == 0) {
    for (int i = 0; i < kBulkStages; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], 96);
    }
    fence_barrier_init();
  }
  block_sync();
  if (t < 32) {
    if (t == 0) bulk_producer(s, in);
    return;
  }
  for (int round = 0; round < kBulkRounds; ++round) {
    const int stage = round % kBulkStages;
    uint32_t* staging = s.staging;
    barrier_wait(&s.full[stage], round / kBulkStages & 1);
    Vec16 v = *reinterpret_cast<Vec16*>(&s.stage[stage][((t - 32) * 7 + round) % 96 * 4]);
    barrier_arrive(&s.empty[stage]);
    for (int i = 0; i < 4; ++i) v.word[i] = v.word[i] * 2654435761u + round;
    if (t == 32) bulk_wait_read();  // the store of the round before has read the staging buffer
    named_sync<1, 96>();
    store_shared(reinterpret_cast<Vec16*>(staging + (t - 32) * 4), v);
    fence_async_shared();
    named_sync<1, 96>();
    if (t == 32) {
      bulk_store(out + round * kBulkWords, staging, kBulkWords * 4);
      bulk_commit();
    }
  }
  if (t == 32) bulk_wait();
}

inline Words bulk_expected() {
  const Words in = random_words(kBulkRounds * kBulkWords, 12);
  Words out;
  for (int round = 0; round < kBulkRounds; ++round)
    for (int t = 0; t < 96; ++t)
      for (int i = 0; i < 4; ++i)
        out.push_back(in[round * kBulkWords + (t * 7 + round) % 96 * 4 + i] * 2654435761u + round);
  return out;
}

inline std::vector<Case> copy_cases() {
  return {
      {"copy_async16, copy_async_commit, copy_async_wait", 80, 0,
       [](BareDevice& d) {
         return run_block<uint32_t>(d, copy_async_kernel, kCopyThreads,
                                    random_words(kAsyncRounds * kCopyThreads * 4, 11), kCopyThreads,
                                    kAsyncStages * kCopyThreads * 16);
       },
       copy_async_expected},
      {"copy_async16 of 0 to 16 bytes", 80, 0,
       [](BareDevice& d) {
         return run_block<uint32_t>(d, copy_part_kernel, kCopyThreads, random_words(kPartsIn, 13), kCopyThreads * 4,
                                    kCopyThreads * 16);
       },
       copy_part_expected},
      {"barriers, bulk_load, store_shared, fence_async_shared, bulk_store", 90, 0,
       [](BareDevice& d) {
         return run_block<uint32_t>(d, bulk_kernel, kCopyThreads, random_words(kBulkRounds * kBulkWords, 12),
                                    kBulkRounds * kBulkWords, sizeof(BulkShared));
       },
       bulk_expected},
  };
}

}  // namespace openmoe::gpu::conformance
