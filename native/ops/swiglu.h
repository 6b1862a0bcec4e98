// out = a * silu(b) * up, silu(b) = b / (1 + exp(-b)): the activation is on the second half of the gate (spec 3.5).
#pragma once

#include "program/op.h"

namespace openmoe {

struct Swiglu {
  In gate_up;  // [num_rows, 3*intermediate_size]  a | b | up
  Out out;     // [num_rows, intermediate_size]
  int num_rows, intermediate_size;
};

inline constexpr Field kSwigluFields[] = {
    FIELD(Swiglu, gate_up, "f32[num_rows, 3*intermediate_size]"),
    FIELD(Swiglu, out, "f32[num_rows, intermediate_size]"),
    FIELD(Swiglu, num_rows),
    FIELD(Swiglu, intermediate_size),
};

}  // namespace openmoe
