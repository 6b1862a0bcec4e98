// out[t] = table[ids[t]]. Ids outside the table are refused: they come from outside.
#pragma once

#include "program/op.h"

namespace openmoe {

struct Embedding {
  In table;  // [num_rows, hidden_size]
  In ids;    // [num_tokens]
  Out out;   // [num_tokens, hidden_size]
  int num_rows, num_tokens, hidden_size;
};

inline constexpr Field kEmbeddingFields[] = {
    FIELD(Embedding, table, "f32|bf16[num_rows, hidden_size]"),
    FIELD(Embedding, ids, "i32[num_tokens]"),
    FIELD(Embedding, out, "f32[num_tokens, hidden_size]"),
    FIELD(Embedding, num_rows),
    FIELD(Embedding, num_tokens),
    FIELD(Embedding, hidden_size),
};

}  // namespace openmoe
