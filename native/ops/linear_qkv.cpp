// launch   one item per thread at a time, as in linear; panels are numbered through q, k and v
// traffic  as linear
// why      a product of a megabyte is short: to begin it, to end it and to round its rows takes half as long again as
//          to read its weights. Three in one have that once
#include "ops/linear_qkv.h"

#include <algorithm>

#include "device/cpu.h"
#include "matmul/panel_matmul.h"
#include "support/error.h"

namespace openmoe::OPENMOE_ISA {

void linear_qkv(const LinearQkv& a, Cpu& cpu) {
  if (a.num_tokens == 0) return;
  if (a.k_weight.dtype != a.q_weight.dtype || a.v_weight.dtype != a.q_weight.dtype)
    fail_arg("linear_qkv: the weights have different dtypes");
  struct Part {
    const Matrix& weight;
    const Out& out;
    int64_t features;
  } parts[] = {{a.q_weight, a.q, a.q_features}, {a.k_weight, a.k, a.kv_features}, {a.v_weight, a.v, a.kv_features}};

  Matmul products[3];
  int64_t first[] = {0, 0, 0, 0};  // panel of each part
  for (int i = 0; i < 3; ++i) {
    products[i] = {.x = a.x.as<float>(),
                   .weight_dtype = a.q_weight.dtype,
                   .residual = nullptr,
                   .out = parts[i].out.as<float>(),
                   .num_rows = a.num_tokens,
                   .in_features = a.in_features,
                   .out_features = parts[i].features};
    first[i + 1] = first[i] + num_panels(parts[i].features);
  }
  const PanelProduct product(products[0], cpu);
  const std::vector<RowGroup> rows{{.weight = nullptr, .first_row = 0, .num_rows = a.num_tokens}};
  for_items(product, rows, first[3], 1, cpu, [&](const Item& item, int thread) {
    for (int part = 0; part < 3; ++part) {
      Item own = item;
      own.weight = parts[part].weight.as<std::byte>();
      own.first = std::max(item.first, first[part]) - first[part];
      own.end = std::min(item.end, first[part + 1]) - first[part];
      for_panels(product, own, first[part + 1] - first[part], cpu, thread,
                 [&](int64_t panel, const float* sums) { write_panel(products[part], own, panel, sums); });
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
