// The rows of each expert, as groups of the matrix engine: shared by grouped_gemm and grouped_gemm_swiglu.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "matmul/panel_matmul.h"
#include "support/error.h"

namespace openmoe::OPENMOE_ISA {

// Checks [num_experts+1] exclusive offsets and leaves out experts without rows. `matrix_bytes` is the size of one
// expert.
inline std::vector<RowGroup> expert_groups(const int32_t* offsets, int num_experts, int num_rows,
                                           const std::byte* weight, size_t matrix_bytes) {
  const auto check = [&](int e, bool ok, const std::string& expected) {
    if (!ok)
      fail_arg("expert_offsets[" + std::to_string(e) + "] is " + std::to_string(offsets[e]) + ", expected " + expected);
  };
  check(0, offsets[0] == 0, "0");
  std::vector<RowGroup> groups;
  for (int e = 0; e < num_experts; ++e) {
    const int64_t begin = offsets[e], end = offsets[e + 1];
    if (end < begin || end > num_rows)
      check(e + 1, false, std::to_string(begin) + " to num_rows = " + std::to_string(num_rows));
    if (end > begin)
      groups.push_back({.weight = weight + e * matrix_bytes, .first_row = begin, .num_rows = end - begin});
  }
  return groups;
}

}  // namespace openmoe::OPENMOE_ISA
