// launch   one block: the choices, in the order they claim capacity, are cut into one run per warp
// traffic  num_tokens * top_k * 16 bytes, from cache; a thousandth of the expert matmuls beside it
// why      a stable counting sort without atomics. The order is group, then choice, then token, so the sort gives the
//          rows, and what it has counted of an expert when a group begins turns its count into the rank within the
//          group. Which slot a choice gets, and so what capacity drops, is a count, never a race.
//
//   1. every warp counts the experts of its run
//   2. sums over the warps before say where each run continues
//   3. every warp walks its run again: match_any tells a lane how many lanes before it chose the same expert
//   4. ranks become rows: what each group keeps of each expert is summed over groups, then over experts
#include "ops/moe_routing.h"

#include "gpu/expert_tiles.h"
#include "gpu/gpu.h"
#include "gpu/stream.h"
#include "gpu/tile_image.h"
#include "support/error.h"

namespace openmoe::gpu {

namespace {

constexpr int kMostWarps = 32;
constexpr int kWarpChoices = 64;           // fewer than that are not worth another warp
constexpr size_t kMostShared = 96 * 1024;  // of any device from sm_80 on

struct Routing {
  MoeRouting op;
  int32_t* seen;   // [num_groups+1, num_experts]  choices of the expert in the groups before
  int32_t* start;  // [num_groups, num_experts]  rows that the groups before keep of the expert
  int32_t* fault;
};

// The choices of a launch in the order they claim capacity.
class Order {
 public:
  GPU_DEVICE Order(const MoeRouting& a, bool one_group) : a_(a), one_group_(one_group) {}
  GPU_DEVICE int num_groups() const { return one_group_ ? 1 : a_.num_groups; }
  // First token of a group; begin(num_groups()) is num_tokens.
  GPU_DEVICE int begin(int group) const {
    if (one_group_) return group == 0 ? 0 : a_.num_tokens;
    return load(a_.group_offsets.as<int32_t>() + group);
  }
  GPU_DEVICE int capacity(int group) const { return one_group_ ? -1 : load(a_.capacity.as<int32_t>() + group); }
  // The first group that begins at or after a token.
  GPU_DEVICE int group_from(int64_t token) const {
    int low = 0, high = num_groups();
    while (low < high) {
      const int middle = (low + high) / 2;
      if (begin(middle) < token)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  // The last group that begins at or before a token: the one it is in.
  GPU_DEVICE int group_of(int64_t token) const { return group_from(token + 1) - 1; }

 private:
  const MoeRouting& a_;
  const bool one_group_;
};

GPU_DEVICE int expert_of(const Routing& r, int64_t choice) {
  const int expert = load(r.op.expert_ids.as<int32_t>() + choice);
  if (expert >= 0 && expert < r.op.num_experts) return expert;
  store(r.fault, 1);
  return 0;
}

// Groups that do not cut the tokens into ranges are one group without a limit: safe, and a fault.
GPU_DEVICE bool groups_are_wrong(const Routing& r) {
  const MoeRouting& a = r.op;
  int* wrong = reinterpret_cast<int*>(shared_memory());
  if (thread_id() == 0) *wrong = 0;
  block_sync();
  const int32_t* offsets = a.group_offsets.as<int32_t>();
  for (int g = thread_id(); g <= a.num_groups; g += num_threads()) {
    const int offset = load(offsets + g), before = g == 0 ? 0 : load(offsets + g - 1);
    if (offset < before || (g == 0 && offset != 0) || (g == a.num_groups && offset != a.num_tokens)) *wrong = 1;
  }
  block_sync();
  const bool result = *wrong != 0;
  block_sync();
  if (result && thread_id() == 0) store(r.fault, 1);
  return result;
}

// Counts the choices at [begin, end) of the order on top of `counts` [num_experts]; a warp together. With kWrite their
// counts go to `rank`, and what was counted when a group begins to `seen`.
template <bool kWrite>
GPU_DEVICE void walk(const Routing& r, const Order& order, int64_t begin, int64_t end, int32_t* counts) {
  const MoeRouting& a = r.op;
  int group = order.group_from(div_up(begin, a.top_k));
  const auto note_groups = [&](int64_t at) {
    for (; kWrite && group < order.num_groups() && int64_t{order.begin(group)} * a.top_k == at; ++group)
      for (int e = lane_id(); e < a.num_experts; e += kWarp)
        store(r.seen + int64_t{group} * a.num_experts + e, counts[e]);
  };
  for (int64_t at = begin; at < end;) {
    note_groups(at);
    const int in = order.group_of(at / a.top_k);
    const int64_t first = order.begin(in);
    const uint32_t tokens =
        static_cast<uint32_t>(order.begin(in + 1) - first);  // 32 bits divide in a tenth of the time
    const int64_t stop = (first + tokens) * a.top_k < end ? (first + tokens) * a.top_k : end;
    for (; at < stop; at += kWarp) {
      // Within the group, choice by choice.
      const uint32_t position = static_cast<uint32_t>(at + lane_id() - first * a.top_k);
      const bool active = at + lane_id() < stop;
      const int64_t choice = active ? (first + position % tokens) * a.top_k + position / tokens : 0;
      const int expert = active ? expert_of(r, choice) : 0;
      // An id no expert has keeps idle lanes out of every match.
      const uint32_t same = match_any(active ? static_cast<uint32_t>(expert) : 0x80000000u | lane_id());
      const int before = popcount(same & ((1u << lane_id()) - 1));
      const int counted = active ? counts[expert] : 0;
      warp_sync();
      if (kWrite && active) store(a.rank.as<int32_t>() + choice, counted + before);
      if (active && before == 0) counts[expert] = counted + popcount(same);
      warp_sync();
    }
    at = stop;
  }
  if (end == int64_t{a.num_tokens} * a.top_k) note_groups(end);  // empty groups at the end
}

// counts [warps, num_experts] become the sums over the warps before; the total goes to `totals`.
GPU_DEVICE void sum_over_warps(int32_t* counts, int warps, int num_experts, int32_t* totals) {
  for (int e = thread_id(); e < num_experts; e += num_threads()) {
    int sum = 0;
    for (int w = 0; w < warps; ++w) {
      const int count = counts[w * num_experts + e];
      counts[w * num_experts + e] = sum;
      sum += count;
    }
    store(totals + e, sum);
  }
}

// Rows each group keeps of each expert, summed over the groups before; kept [num_experts] is the sum of all.
GPU_DEVICE void sum_over_groups(const Routing& r, const Order& order, int32_t* kept) {
  const int experts = r.op.num_experts;
  for (int e = thread_id(); e < experts; e += num_threads()) {
    int sum = 0;
    for (int g = 0; g < order.num_groups(); ++g) {
      store(r.start + int64_t{g} * experts + e, sum);
      const int claimed = load(r.seen + (g + int64_t{1}) * experts + e) - load(r.seen + int64_t{g} * experts + e);
      const int capacity = order.capacity(g);
      sum += capacity >= 0 && claimed > capacity ? capacity : claimed;
    }
    kept[e] = sum;
  }
}

// first [num_experts]: exclusive sums of kept, in place; and the op's expert_offsets. One warp.
GPU_DEVICE void sum_over_experts(const MoeRouting& a, int32_t* kept) {
  int32_t* offsets = a.expert_offsets.as<int32_t>();
  int total = 0;
  for (int base = 0; base < a.num_experts; base += kWarp) {
    const int e = base + lane_id();
    const int count = e < a.num_experts ? kept[e] : 0;
    const int end = total + warp_sum_scan(count);
    if (e < a.num_experts) {
      kept[e] = end - count;
      store(offsets + e + 1, end);
    }
    total = shuffle(end, kWarp - 1);
  }
  if (lane_id() == 0) store(offsets, 0);
}

GPU_KERNEL(kMostWarps* kWarp, 1) void moe_routing_kernel(Routing r) {
  launch_wait();
  const MoeRouting& a = r.op;
  const Order order(a, groups_are_wrong(r));
  auto* counts = reinterpret_cast<int32_t*>(shared_memory());  // [warps, num_experts]
  const int warps = num_threads() / kWarp;
  const int64_t choices = int64_t{a.num_tokens} * a.top_k;
  const int64_t begin = choices * warp_id() / warps, end = choices * (warp_id() + 1) / warps;
  int32_t* own = counts + warp_id() * a.num_experts;

  for (int e = lane_id(); e < a.num_experts; e += kWarp) own[e] = 0;
  warp_sync();
  walk<false>(r, order, begin, end, own);
  block_sync();
  sum_over_warps(counts, warps, a.num_experts, r.seen + int64_t{order.num_groups()} * a.num_experts);
  block_sync();
  walk<true>(r, order, begin, end, own);
  block_sync();

  int32_t* first = counts;  // [num_experts]
  sum_over_groups(r, order, first);
  block_sync();
  if (warp_id() == 0) sum_over_experts(a, first);
  block_sync();
  for (int64_t token = thread_id(); token < a.num_tokens; token += num_threads()) {
    const int64_t group = order.group_of(token);
    const int capacity = order.capacity(static_cast<int>(group));
    for (int k = 0; k < a.top_k; ++k) {
      const int64_t choice = token * a.top_k + k;
      const int expert = expert_of(r, choice);
      const int64_t at = group * a.num_experts + expert;
      const int rank = load(a.rank.as<int32_t>() + choice) - load(r.seen + at);
      store(a.rank.as<int32_t>() + choice, rank);
      const bool kept = capacity < 0 || rank < capacity;
      store(a.row_id_map.as<int32_t>() + choice, kept ? first[expert] + load(r.start + at) + rank : -1);
    }
  }
}

}  // namespace

void moe_routing(const MoeRouting& args, Stream& stream) {
  if (args.top_k < 1 || args.num_experts < 1) fail_arg("top_k and num_experts must be at least 1");
  const int64_t choices = int64_t{args.num_tokens} * args.top_k;
  if (choices > INT32_MAX)
    fail_arg("num_tokens * top_k is " + std::to_string(choices) + ", expected a row number of 32 bits");
  const size_t row_bytes = sizeof(int32_t) * args.num_experts;
  if (row_bytes > kMostShared)
    fail_arg("num_experts is " + std::to_string(args.num_experts) + ", a GPU takes at most " +
             std::to_string(kMostShared / sizeof(int32_t)));
  int64_t warps = div_up(choices, kWarpChoices);
  if (warps > kMostWarps) warps = kMostWarps;
  if (warps > static_cast<int64_t>(kMostShared / row_bytes)) warps = kMostShared / row_bytes;
  if (warps < 1) warps = 1;

  const int64_t groups = args.num_groups > 0 ? args.num_groups : 1;  // wrong ones are taken for one
  auto* seen = static_cast<int32_t*>(stream.workspace(row_bytes * (2 * groups + 1)));
  const Routing routing{args, seen, seen + (groups + 1) * (row_bytes / sizeof(int32_t)), stream.fault()};
  stream.launch({"moe_routing", 1, static_cast<int>(warps) * kWarp, warps * row_bytes, true}, moe_routing_kernel,
                routing);
}

}  // namespace openmoe::gpu
