// launch   one item per thread at a time: up to 96 rows of one expert times some panels (support/panel_matmul.h)
// traffic  the weights of every expert that has rows, once per 96 of its rows; the others are never touched
// why      items are small and claimed one by one, so an expert with most of the rows does not become the last thread's
#include "ops/grouped_gemm.h"

#include <cstring>
#include <string>
#include <vector>

#include "device/cpu.h"
#include "support/error.h"
#include "support/panel_matmul.h"

namespace openmoe::OPENMOE_ISA {

void grouped_gemm(const GroupedGemm& a, Cpu& cpu) {
  const int32_t* offsets = a.expert_offsets.as<int32_t>();
  const size_t matrix_bytes = panel_matrix_bytes(a.weight.dtype, 1, a.out_features, a.in_features);
  const auto check = [&](int e, bool ok, const std::string& expected) {
    if (!ok)
      fail_arg("expert_offsets[" + std::to_string(e) + "] is " + std::to_string(offsets[e]) + ", expected " + expected);
  };
  check(0, offsets[0] == 0, "0");
  std::vector<RowGroup> groups;
  for (int e = 0; e < a.num_experts; ++e) {
    const int64_t begin = offsets[e], end = offsets[e + 1];
    if (end < begin || end > a.num_rows)
      check(e + 1, false, std::to_string(begin) + " to num_rows = " + std::to_string(a.num_rows));
    if (end > begin)
      groups.push_back(
          {.weight = a.weight.as<std::byte>() + e * matrix_bytes, .first_row = begin, .num_rows = end - begin});
  }
  const int64_t used = offsets[a.num_experts];
  const Matmul m{.x = a.x.as<float>(),
                 .weight_dtype = a.weight.dtype,
                 .out = a.out.as<float>(),
                 .num_rows = used,
                 .in_features = a.in_features,
                 .out_features = a.out_features};
  matmul(m, std::move(groups), cpu);
  const size_t row_bytes = a.out_features * sizeof(float);
  std::memset(a.out.as<std::byte>() + used * row_bytes, 0, (a.num_rows - used) * row_bytes);
}

}  // namespace openmoe::OPENMOE_ISA
