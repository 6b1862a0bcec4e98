// The head with greedy sampling in one: token[t] = argmax over ids of x[t] weight[id]^T, the lowest id on ties; the
// very token that `linear` and then `sample` at temperature 0 take. Ids >= vocab_limit are never taken (<= 0: none is
// left out). A row whose products hold NaN or +infinity, or nothing finite, gives -1.
#pragma once

#include "program/op.h"

namespace openmoe {

struct LinearArgmax {
  In x;           // [num_rows, in_features]
  Matrix weight;  // [1, vocab_size, in_features]
  Out token;      // [num_rows]
  int num_rows, vocab_size, in_features, vocab_limit;
};

inline constexpr Field kLinearArgmaxFields[] = {
    FIELD(LinearArgmax, x, "f32[num_rows, in_features]"),
    FIELD(LinearArgmax, weight, "matrix[1, vocab_size, in_features]"),
    FIELD(LinearArgmax, token, "i32[num_rows]"),
    FIELD(LinearArgmax, num_rows),
    FIELD(LinearArgmax, vocab_size),
    FIELD(LinearArgmax, in_features),
    FIELD(LinearArgmax, vocab_limit),
};

}  // namespace openmoe
