// Writes rotated keys and values of this run's tokens into the paged cache. Row r of sequence s has the absolute
// position seq_positions[s] + r - seq_offsets[s]; position p lives in page block_table[s, p / 32], slot p % 32. Keys
// lie tokens last: f32 ones as [head_dim, 32], bf16 ones with neighbours in head_dim side by side, [head_dim/2, 32, 2],
// where the last of an odd head_dim has none and lies as in f32.
#pragma once

#include "program/op.h"

namespace openmoe {

// Tokens per page: one weight panel wide (matmul/panel.h), so that a page of keys is a panel whose outputs are scores.
inline constexpr int kPageTokens = 32;

struct KvAppend {
  In k;              // [num_tokens, num_kv_heads*head_dim]
  In v;              // [num_tokens, num_kv_heads*head_dim]
  InOut k_pages;     // [num_pages, num_kv_heads, head_dim, 32]  keys, rotated; tokens last, bf16 in pairs
  InOut v_pages;     // [num_pages, num_kv_heads, 32, head_dim]
  In block_table;    // [num_seqs, max_blocks]  page of each 32 positions
  In seq_offsets;    // [num_seqs+1]  rows of each sequence, exclusive
  In seq_positions;  // [num_seqs]  position of its first row
  int num_tokens, num_seqs, num_kv_heads, head_dim, num_pages, max_blocks;
};

inline constexpr Field kKvAppendFields[] = {
    FIELD(KvAppend, k, "f32[num_tokens, num_kv_heads*head_dim]"),
    FIELD(KvAppend, v, "f32[num_tokens, num_kv_heads*head_dim]"),
    FIELD(KvAppend, k_pages, "f32|bf16[num_pages, num_kv_heads, head_dim, 32]"),
    FIELD(KvAppend, v_pages, "f32|bf16[num_pages, num_kv_heads, 32, head_dim]"),
    FIELD(KvAppend, block_table, "i32[num_seqs, max_blocks]"),
    FIELD(KvAppend, seq_offsets, "i32[num_seqs+1]"),
    FIELD(KvAppend, seq_positions, "i32[num_seqs]"),
    FIELD(KvAppend, num_tokens),
    FIELD(KvAppend, num_seqs),
    FIELD(KvAppend, num_kv_heads),
    FIELD(KvAppend, head_dim),
    FIELD(KvAppend, num_pages),
    FIELD(KvAppend, max_blocks),
};

}  // namespace openmoe
