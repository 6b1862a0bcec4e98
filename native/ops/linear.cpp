// launch   one item per thread at a time: up to 96 rows times some panels (matmul/panel_matmul.h)
// traffic  every weight once per 96 rows: bound by memory up to a handful of rows, by the multiply-add units above
// why      packed panels make the weights one stream whatever the batch, and k runs in order in every accumulator
#include "ops/linear.h"

#include "device/cpu.h"
#include "matmul/panel_matmul.h"

namespace openmoe::OPENMOE_ISA {

void linear(const Linear& a, Cpu& cpu) {
  if (a.num_tokens == 0) return;
  const Matmul m{.x = a.x.as<float>(),
                 .weight_dtype = a.weight.dtype,
                 .residual = a.residual.as<float>(),
                 .out = a.out.as<float>(),
                 .num_rows = a.num_tokens,
                 .in_features = a.in_features,
                 .out_features = a.out_features};
  matmul(m, {{.weight = a.weight.as<std::byte>(), .first_row = 0, .num_rows = a.num_tokens}}, cpu);
}

}  // namespace openmoe::OPENMOE_ISA
