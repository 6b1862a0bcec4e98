// launch   one token per chunk of parallel_for
// traffic  (top_k + 1) * hidden_size * 4 bytes per token, one more with a residual; memory bound at every size
// why      gather, not scatter: each row of out is written once, so no atomics and a fixed order of summation
#include "ops/moe_unpermute.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

void moe_unpermute(const MoeUnpermute& a, Cpu& cpu) {
  const int32_t* row_id_map = a.row_id_map.as<int32_t>();
  for (int64_t i = 0; i < int64_t{a.num_tokens} * a.top_k; ++i)
    if (row_id_map[i] < -1 || row_id_map[i] >= a.num_permuted)
      fail_arg("row_id_map[" + std::to_string(i) + "] is " + std::to_string(row_id_map[i]) +
               ", expected -1 or a row below num_permuted = " + std::to_string(a.num_permuted));
  cpu.parallel_for(a.num_tokens, rows_per_chunk(a.hidden_size), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* rows = row_id_map + t * a.top_k;
      const float* weights = a.expert_weights.as<float>() + t * a.top_k;
      const float* x = a.x ? a.x.as<float>() + t * a.hidden_size : nullptr;
      for_vectors(a.hidden_size, [&](int64_t col, auto lanes) {
        Vec sum = zero();
        for (int k = 0; k < a.top_k; ++k)
          if (rows[k] >= 0) {
            const float* row = a.permuted.as<float>() + int64_t{rows[k]} * a.hidden_size;
            sum = fma(set1(weights[k]), load(row + col, lanes), sum);
          }
        if (x) sum = add(load(x + col, lanes), sum);
        store(a.out.as<float>() + t * a.hidden_size + col, sum, lanes);
      });
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
