// launch   one row of permuted per chunk of parallel_for
// traffic  read x top_k times (repeats from cache), write num_tokens * top_k rows: memory bound at every size
// why      gather, not scatter: the row map is inverted first, so each row is written once, by one chunk, also those
//          that nobody maps to and even if two choices name one row (then the last choice has it)
#include "ops/moe_permute.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

void moe_permute(const MoePermute& a, Cpu& cpu) {
  const int64_t num_rows = int64_t{a.num_tokens} * a.top_k;
  const int32_t* row_id_map = a.row_id_map.as<int32_t>();
  int64_t* token_of_row = cpu.shared_scratch<int64_t>(num_rows);
  std::fill_n(token_of_row, num_rows, -1);
  for (int64_t i = 0; i < num_rows; ++i) {
    if (row_id_map[i] < -1 || row_id_map[i] >= num_rows)
      fail_arg("row_id_map[" + std::to_string(i) + "] is " + std::to_string(row_id_map[i]) +
               ", expected -1 or a row below num_tokens * top_k = " + std::to_string(num_rows));
    if (row_id_map[i] >= 0) token_of_row[row_id_map[i]] = i / a.top_k;
  }
  const size_t row_bytes = size_t(a.hidden_size) * sizeof(float);
  cpu.parallel_for(num_rows, rows_per_chunk(a.hidden_size), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* to = a.permuted.as<float>() + row * a.hidden_size;
      if (token_of_row[row] < 0)
        std::memset(to, 0, row_bytes);
      else
        std::memcpy(to, a.x.as<float>() + token_of_row[row] * a.hidden_size, row_bytes);
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
