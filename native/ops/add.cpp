// launch   elements, flat: rows mean nothing here
// traffic  a and b in, out out: memory bound
#include "ops/add.h"

#include "device/cpu.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

void add(const Add& a, Cpu& cpu) {
  const float* x = a.a.as<float>();
  const float* y = a.b.as<float>();
  float* out = a.out.as<float>();
  cpu.parallel_for(int64_t{a.num_tokens} * a.hidden_size, rows_per_chunk(1), [&](int64_t begin, int64_t end, int) {
    for_vectors(end - begin, [&](int64_t i, auto n) {
      const int64_t at = begin + i;
      store(out + at, add(load(x + at, n), load(y + at, n)), n);
    });
  });
}

}  // namespace openmoe::OPENMOE_ISA
