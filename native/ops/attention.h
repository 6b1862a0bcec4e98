// Causal attention over the paged cache, without the 1/sqrt(d) factor (spec 3.3): a query at absolute position p sees
// keys 0..p of its own sequence, kv head h / (num_heads / num_kv_heads). Call kv_append for the same rows first. Rows
// and pages as there.
#pragma once

#include "program/op.h"

namespace openmoe {

struct Attention {
  In q;              // [num_tokens, num_heads*head_dim]  rotated
  In k_pages;        // [num_pages, num_kv_heads, head_dim, 32]  keys, rotated; as in kv_append
  In v_pages;        // [num_pages, num_kv_heads, 32, head_dim]
  In block_table;    // [num_seqs, max_blocks]  page of each 32 positions
  In seq_offsets;    // [num_seqs+1]  rows of each sequence, exclusive
  In seq_positions;  // [num_seqs]  position of its first row
  Out out;           // [num_tokens, num_heads*head_dim]
  int num_tokens, num_seqs, num_heads, num_kv_heads, head_dim, num_pages, max_blocks;
};

inline constexpr Field kAttentionFields[] = {
    FIELD(Attention, q, "f32[num_tokens, num_heads*head_dim]"),
    FIELD(Attention, k_pages, "f32|bf16[num_pages, num_kv_heads, head_dim, 32]"),
    FIELD(Attention, v_pages, "f32|bf16[num_pages, num_kv_heads, 32, head_dim]"),
    FIELD(Attention, block_table, "i32[num_seqs, max_blocks]"),
    FIELD(Attention, seq_offsets, "i32[num_seqs+1]"),
    FIELD(Attention, seq_positions, "i32[num_seqs]"),
    FIELD(Attention, out, "f32[num_tokens, num_heads*head_dim]"),
    FIELD(Attention, num_tokens),
    FIELD(Attention, num_seqs),
    FIELD(Attention, num_heads),
    FIELD(Attention, num_kv_heads),
    FIELD(Attention, head_dim),
    FIELD(Attention, num_pages),
    FIELD(Attention, max_blocks),
};

}  // namespace openmoe
