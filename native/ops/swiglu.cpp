// launch   rows, a few per chunk of parallel_for
// traffic  a, b and up in, out out; memory bound, if only just: the exponential costs about as much as the loads
// why      a row at a time (support/gated.h): its three parts are three streams
#include "ops/swiglu.h"

#include "device/cpu.h"
#include "support/gated.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

void swiglu(const Swiglu& args, Cpu& cpu) {
  const int64_t width = args.intermediate_size;
  cpu.parallel_for(args.num_rows, rows_per_chunk(3 * width), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const float* a = args.gate_up.as<float>() + r * 3 * width;
      gated(a, a + width, a + 2 * width, width, args.out.as<float>() + r * width);
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
