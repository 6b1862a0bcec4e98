// The gated activation, shared by swiglu and grouped_gemm_swiglu.
#pragma once

#include <cstdint>

#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// Below -88 silu is flat at -88 e^-88 = -5e-37: b is cut there, as exp() stops growing at e^88 and b would not.
inline Vec silu(Vec b) {
  b = max(set1(-88.0f), b);  // in this order NaN stays NaN
  return div(b, add(set1(1.0f), exp(sub(zero(), b))));
}

// out = a * silu(b) * up of `width` features (spec 3.5).
inline void gated(const float* a, const float* b, const float* up, int64_t width, float* out) {
  for_vectors(width, [&](int64_t i, auto n) {
    store(out + i, mul(mul(load(a + i, n), silu(load(b + i, n))), load(up + i, n)), n);
  });
}

}  // namespace openmoe::OPENMOE_ISA
