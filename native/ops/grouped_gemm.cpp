// launch   one item per thread at a time: up to 96 rows of one expert times some panels (matmul/panel_matmul.h)
// traffic  the weights of every expert that has rows, once per 96 of its rows; the others are never touched
// why      items are small and claimed one by one, so an expert with most of the rows does not become the last thread's
#include "ops/grouped_gemm.h"

#include <cstring>

#include "device/cpu.h"
#include "support/expert_groups.h"

namespace openmoe::OPENMOE_ISA {

void grouped_gemm(const GroupedGemm& a, Cpu& cpu) {
  const int32_t* offsets = a.expert_offsets.as<int32_t>();
  const size_t matrix_bytes = panel_matrix_bytes(a.weight.dtype, 1, a.out_features, a.in_features);
  auto groups = expert_groups(offsets, a.num_experts, a.num_rows, a.weight.as<std::byte>(), matrix_bytes);
  const int64_t used = offsets[a.num_experts];
  const Matmul m{.x = a.x.as<float>(),
                 .weight_dtype = a.weight.dtype,
                 .residual = nullptr,
                 .out = a.out.as<float>(),
                 .num_rows = used,
                 .in_features = a.in_features,
                 .out_features = a.out_features};
  matmul(m, std::move(groups), cpu);
  const size_t row_bytes = a.out_features * sizeof(float);
  std::memset(a.out.as<std::byte>() + used * row_bytes, 0, (a.num_rows - used) * row_bytes);
}

}  // namespace openmoe::OPENMOE_ISA
