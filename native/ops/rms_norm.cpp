// launch   one token per chunk of parallel_for
// traffic  read x twice (the second time from L1), write out: memory bound
#include "ops/rms_norm.h"

#include <cmath>

#include "device/cpu.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

void rms_norm(const RmsNorm& a, Cpu& cpu) {
  cpu.parallel_for(a.num_tokens, rows_per_chunk(a.hidden_size), [&](int64_t begin, int64_t end, int) {
    const float* weight = a.weight.as<float>();
    for (int64_t t = begin; t < end; ++t) {
      const float* x = a.x.as<float>() + t * a.hidden_size;
      float* out = a.out.as<float>() + t * a.hidden_size;
      const float scale = 1.0f / std::sqrt(dot(x, x, a.hidden_size) / static_cast<float>(a.hidden_size) + a.eps);
      const Vec vscale = set1(scale);
      for_vectors(a.hidden_size,
                  [&](int64_t i, auto n) { store(out + i, mul(load(weight + i, n), mul(load(x + i, n), vscale)), n); });
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
