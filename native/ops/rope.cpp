// launch   tokens, a few rows per chunk of parallel_for
// traffic  x in, out out; a table row serves all heads of its token: memory bound
// why      products and sum are rounded one by one, no fma: the reference's rounding, bit for bit
#include "ops/rope.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

void rope(const Rope& a, Cpu& cpu) {
  const int32_t* positions = a.positions.as<int32_t>();
  for (int64_t t = 0; t < a.num_tokens; ++t)
    if (positions[t] < 0 || positions[t] >= a.max_positions)
      fail_arg("positions[" + std::to_string(t) + "] is " + std::to_string(positions[t]) +
               ", expected at least 0 and below " + std::to_string(a.max_positions));

  const int64_t half = a.head_dim / 2, row = int64_t{a.num_heads} * a.head_dim;
  cpu.parallel_for(a.num_tokens, rows_per_chunk(row), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos = a.table.as<float>() + int64_t{positions[t]} * a.head_dim;
      const float* sin = cos + half;
      for (int64_t head = t * row; head < (t + 1) * row; head += a.head_dim) {
        const float* x = a.x.as<float>() + head;
        float* out = a.out.as<float>() + head;
        for_vectors(half, [&](int64_t j, auto n) {
          const Vec x1 = load(x + j, n), x2 = load(x + half + j, n), c = load(cos + j, n), s = load(sin + j, n);
          store(out + j, sub(mul(x1, c), mul(x2, s)), n);
          store(out + half + j, add(mul(x2, c), mul(x1, s)), n);
        });
      }
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
