// launch   rows, a few per chunk of parallel_for
// traffic  a, b and up in, out out; memory bound, if only just: the exponential costs about as much as the loads
// why      below -88 silu is flat at -88 e^-88 = -5e-37: b is cut there, as exp() stops growing at e^88 and b would not
#include "ops/swiglu.h"

#include "device/cpu.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

static Vec silu(Vec b) {
  b = max(set1(-88.0f), b);  // in this order NaN stays NaN
  return div(b, add(set1(1.0f), exp(sub(zero(), b))));
}

void swiglu(const Swiglu& args, Cpu& cpu) {
  const int64_t width = args.intermediate_size;
  cpu.parallel_for(args.num_rows, rows_per_chunk(3 * width), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const float* a = args.gate_up.as<float>() + r * 3 * width;
      const float* b = a + width;
      const float* up = b + width;
      float* out = args.out.as<float>() + r * width;
      for_vectors(width, [&](int64_t i, auto n) {
        store(out + i, mul(mul(load(a + i, n), silu(load(b + i, n))), load(up + i, n)), n);
      });
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
