// launch   the calling thread alone: two passes over the choices
// traffic  num_tokens * top_k * 24 bytes, all in cache; a thousandth of the expert matmuls beside it
// why      a counting sort in the reference's own order: what is dropped is decided by counting, and counting in
//          parallel would need a scan over (group, expert) for a few microseconds' gain
#include "ops/moe_routing.h"

#include "device/cpu.h"
#include "support/error.h"

namespace openmoe::OPENMOE_ISA {

namespace {

void check_indices(const MoeRouting& a) {
  const int64_t choices = int64_t{a.num_tokens} * a.top_k;
  if (choices > std::numeric_limits<int32_t>::max())
    fail_arg("num_tokens * top_k is " + std::to_string(choices) + ", expected a row number of 32 bits");
  const int32_t* offsets = a.group_offsets.as<int32_t>();
  if (offsets[0] != 0) fail_arg("group_offsets[0] is " + std::to_string(offsets[0]) + ", expected 0");
  for (int g = 0; g < a.num_groups; ++g)
    if (offsets[g + 1] < offsets[g])
      fail_arg("group_offsets[" + std::to_string(g + 1) + "] is " + std::to_string(offsets[g + 1]) +
               ", expected at least the entry before, " + std::to_string(offsets[g]));
  if (offsets[a.num_groups] != a.num_tokens)
    fail_arg("group_offsets[" + std::to_string(a.num_groups) + "] is " + std::to_string(offsets[a.num_groups]) +
             ", expected num_tokens = " + std::to_string(a.num_tokens));
  const int32_t* ids = a.expert_ids.as<int32_t>();
  for (int64_t i = 0; i < choices; ++i)
    if (ids[i] < 0 || ids[i] >= a.num_experts)
      fail_arg("expert_ids[" + std::to_string(i) + "] is " + std::to_string(ids[i]) +
               ", expected 0 to num_experts - 1 = " + std::to_string(a.num_experts - 1));
}

bool is_kept(int32_t rank, int32_t capacity) { return capacity < 0 || rank < capacity; }

}  // namespace

void moe_routing(const MoeRouting& a, Cpu& cpu) {
  check_indices(a);
  const int32_t* ids = a.expert_ids.as<int32_t>();
  const int32_t* group = a.group_offsets.as<int32_t>();
  const int32_t* capacity = a.capacity.as<int32_t>();
  int32_t* expert_offsets = a.expert_offsets.as<int32_t>();
  int32_t* row_id_map = a.row_id_map.as<int32_t>();
  int32_t* rank = a.rank.as<int32_t>();
  int32_t* used = cpu.scratch<int32_t>(0, 2 * int64_t{a.num_experts});  // of this group, by expert
  int32_t* next_row = used + a.num_experts;                             // where this group's rows begin, by expert

  std::fill_n(expert_offsets, int64_t{a.num_experts} + 1, 0);
  for (int g = 0; g < a.num_groups; ++g) {
    std::fill_n(used, a.num_experts, 0);
    // First choices claim capacity before any second choice: the reference's order, and it decides what is dropped.
    for (int k = 0; k < a.top_k; ++k)
      for (int64_t t = group[g]; t < group[g + 1]; ++t) {
        const int64_t i = t * a.top_k + k;
        rank[i] = used[ids[i]]++;
        expert_offsets[ids[i] + 1] += is_kept(rank[i], capacity[g]);
      }
  }
  for (int e = 0; e < a.num_experts; ++e) expert_offsets[e + 1] += expert_offsets[e];

  std::copy_n(expert_offsets, a.num_experts, next_row);
  for (int g = 0; g < a.num_groups; ++g) {
    std::fill_n(used, a.num_experts, 0);
    // The kept ranks of a group are 0, 1, 2...: rank itself is the row within the group's share of an expert.
    for (int64_t i = int64_t{group[g]} * a.top_k; i < int64_t{group[g + 1]} * a.top_k; ++i) {
      const bool kept = is_kept(rank[i], capacity[g]);
      row_id_map[i] = kept ? next_row[ids[i]] + rank[i] : -1;
      used[ids[i]] += kept;
    }
    for (int e = 0; e < a.num_experts; ++e) next_row[e] += used[e];
  }
}

}  // namespace openmoe::OPENMOE_ISA
