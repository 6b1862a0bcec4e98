// The next token of each row. In this order: ids >= vocab_limit are masked (<= 0: none); repetition penalty (prompt and
// output), frequency and presence penalties (output); logit bias; temperature (0 = greedy: argmax, lowest id on ties);
// top-k (0 = off); top-p of what top-k left (1 = off); min-p, relative to the best (0 = off); one draw from what is
// left, walking it from the best down, the lower id first on ties. The random number is a function of (seed, choice,
// position) alone, so neighbours in the batch do not change it. A probability below e^-87 of the best one's is zero.
// forced_id >= 0 takes that token instead (scoring). logprob is the log-softmax of the logits as they came (masked ids
// excluded), of the token taken; top_* are the largest, filled up with id -1. A row with NaN or +infinity, or that
// leaves nothing finite to take, and a forced_id that is masked, give token -1 with logprob NaN.
#pragma once

#include "program/op.h"

namespace openmoe {

// Columns of `floats` and `ints`, one row per sampled row.
namespace sample_floats {
enum { temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, count };
}
namespace sample_ints {
enum { top_k, seed_low, seed_high, choice, position, history_length, prompt_length, num_bias, forced_id, count };
}

struct Sample {
  In logits;         // [num_rows, vocab_size]
  In floats;         // [num_rows, 6]  see sample_floats
  In ints;           // [num_rows, 9]  see sample_ints
  In history;        // [num_rows, max_history]  prompt, then output
  In bias_ids;       // [num_rows, max_bias]
  In bias_values;    // [num_rows, max_bias]
  Out token;         // [num_rows]
  Out logprob;       // [num_rows]; without it and top_* no exponentials are summed
  Out top_ids;       // [num_rows, num_top]  best first
  Out top_logprobs;  // [num_rows, num_top]
  int num_rows, vocab_size, vocab_limit, max_history, max_bias, num_top;
};

inline constexpr Field kSampleFields[] = {
    FIELD(Sample, logits, "f32[num_rows, vocab_size]"),
    FIELD(Sample, floats, "f32[num_rows, 6]"),
    FIELD(Sample, ints, "i32[num_rows, 9]"),
    FIELD(Sample, history, "i32[num_rows, max_history]?"),
    FIELD(Sample, bias_ids, "i32[num_rows, max_bias]?"),
    FIELD(Sample, bias_values, "f32[num_rows, max_bias]?"),
    FIELD(Sample, token, "i32[num_rows]"),
    FIELD(Sample, logprob, "f32[num_rows]?"),
    FIELD(Sample, top_ids, "i32[num_rows, num_top]?"),
    FIELD(Sample, top_logprobs, "f32[num_rows, num_top]?"),
    FIELD(Sample, num_rows),
    FIELD(Sample, vocab_size),
    FIELD(Sample, vocab_limit),
    FIELD(Sample, max_history),
    FIELD(Sample, max_bias),
    FIELD(Sample, num_top),
};

}  // namespace openmoe
