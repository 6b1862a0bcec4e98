// What kv_append and attention share: the sequences of a run and the pages their positions live in. The fields are
// those of both contracts (native/ops/kv_append.h says what they mean).
#pragma once

#include <cstdint>
#include <string>

#include "ops/kv_append.h"
#include "support/error.h"

namespace openmoe::OPENMOE_ISA {

// Numbers a kernel derives from a sequence. Only after check_batch().
struct Sequence {
  int64_t first_row, num_rows, first_position;
  const int32_t* pages;  // page of each 32 positions

  template <class Contract>
  Sequence(const Contract& a, int64_t s)
      : first_row(a.seq_offsets.template as<int32_t>()[s]),
        num_rows(a.seq_offsets.template as<int32_t>()[s + 1] - first_row),
        first_position(a.seq_positions.template as<int32_t>()[s]),
        pages(a.block_table.template as<int32_t>() + s * a.max_blocks) {}

  int64_t end_position() const { return first_position + num_rows; }
};

// Refuses every index that would leave a tensor. Only pages of positions that are used are looked at: those of the
// run's own rows, and with `history` those before them. The rest of a block table may hold anything.
template <class Contract>
void check_batch(const Contract& a, bool history) {
  const int32_t* offsets = a.seq_offsets.template as<int32_t>();
  const auto entry = [](const char* name, int64_t i, int64_t value) {
    return std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(value) + ", expected ";
  };
  if (a.k_pages.dtype != a.v_pages.dtype) fail_arg("v_pages has another dtype than k_pages, expected the same");
  if (offsets[0] != 0) fail_arg(entry("seq_offsets", 0, offsets[0]) + "0");
  for (int64_t s = 0; s < a.num_seqs; ++s)
    if (offsets[s + 1] < offsets[s])
      fail_arg(entry("seq_offsets", s + 1, offsets[s + 1]) + "at least seq_offsets[" + std::to_string(s) +
               "] = " + std::to_string(offsets[s]));
  if (offsets[a.num_seqs] != a.num_tokens)
    fail_arg(entry("seq_offsets", a.num_seqs, offsets[a.num_seqs]) + "num_tokens = " + std::to_string(a.num_tokens));

  const int64_t max_positions = int64_t{a.max_blocks} * kPageTokens;
  for (int64_t s = 0; s < a.num_seqs; ++s) {
    const Sequence seq(a, s);
    if (seq.num_rows == 0) continue;
    if (seq.first_position < 0 || seq.end_position() > max_positions)
      fail_arg(entry("seq_positions", s, seq.first_position) + "at least 0, with " + std::to_string(seq.num_rows) +
               " rows ending within the " + std::to_string(max_positions) + " positions of block_table");
    const int64_t begin = history ? 0 : seq.first_position / kPageTokens;
    for (int64_t block = begin; block * kPageTokens < seq.end_position(); ++block)
      if (seq.pages[block] < 0 || seq.pages[block] >= a.num_pages)
        fail_arg(entry("block_table", s * a.max_blocks + block, seq.pages[block]) + "at least 0 and below " +
                 std::to_string(a.num_pages) + " pages");
  }
}

}  // namespace openmoe::OPENMOE_ISA
