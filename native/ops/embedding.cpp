// launch   tokens, a few rows per chunk of parallel_for
// traffic  one row of the table in, one row out: memory bound, rows are far apart
#include "ops/embedding.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

static int32_t row_of(const Embedding& a, int64_t token) {
  const int32_t id = a.ids.as<int32_t>()[token];
  const int64_t back = -1 - int64_t{id};
  return id < 0 && a.previous && back < a.num_previous ? a.previous.as<int32_t>()[back] : id;
}

template <class T>
static void gather_rows(const Embedding& a, Cpu& cpu) {
  cpu.parallel_for(a.num_tokens, rows_per_chunk(a.hidden_size), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = a.table.as<T>() + int64_t{row_of(a, t)} * a.hidden_size;
      float* out = a.out.as<float>() + t * a.hidden_size;
      for_vectors(a.hidden_size, [&](int64_t i, auto n) { store(out + i, load(row + i, n), n); });
    }
  });
}

void embedding(const Embedding& a, Cpu& cpu) {
  for (int64_t t = 0; t < a.num_tokens; ++t)
    if (const int32_t row = row_of(a, t); row < 0 || row >= a.num_rows)
      fail_arg("ids[" + std::to_string(t) + "] is " + std::to_string(row) + ", expected at least 0 and below " +
               std::to_string(a.num_rows));
  a.table.dtype == DType::bf16 ? gather_rows<bf16>(a, cpu) : gather_rows<float>(a, cpu);
}

}  // namespace openmoe::OPENMOE_ISA
