// out[t] = table[ids[t]]. With `previous`, an id below 0 stands for previous[-1 - id]: what the run before has sampled,
// which the host need not have seen. Ids outside the table are refused: they come from outside.
#pragma once

#include "program/op.h"

namespace openmoe {

struct Embedding {
  In table;     // [num_rows, hidden_size]
  In ids;       // [num_tokens]
  In previous;  // [num_previous]
  Out out;      // [num_tokens, hidden_size]
  int num_rows, num_tokens, num_previous, hidden_size;
};

inline constexpr Field kEmbeddingFields[] = {
    FIELD(Embedding, table, "f32|bf16[num_rows, hidden_size]"),
    FIELD(Embedding, ids, "i32[num_tokens]"),
    FIELD(Embedding, previous, "i32[num_previous]?"),
    FIELD(Embedding, out, "f32[num_tokens, hidden_size]"),
    FIELD(Embedding, num_rows),
    FIELD(Embedding, num_tokens),
    FIELD(Embedding, num_previous),
    FIELD(Embedding, hidden_size),
};

}  // namespace openmoe
