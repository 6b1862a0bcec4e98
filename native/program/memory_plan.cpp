// Which bytes of the arena a tensor gets. Largest first, each at the lowest offset that is free during its whole life:
// simple, and within a few percent of optimal for the chains that layers record.
#include <algorithm>
#include <limits>

#include "program/program.h"

namespace openmoe {

namespace {

constexpr size_t kAlign = 64;

struct Life {
  size_t tensor, bytes;
  int first, last;  // records
};

bool overlap(const Life& a, const Life& b) { return a.first <= b.last && b.first <= a.last; }

}  // namespace

void plan_memory(Program& program) {
  constexpr int kNever = -1;
  const int end = static_cast<int>(program.records.size());
  std::vector<Life> lives(program.tensors.size());
  for (size_t i = 0; i < lives.size(); ++i) {
    const ProgramTensor& t = program.tensors[i];
    lives[i] = {i, (t.bytes + kAlign - 1) / kAlign * kAlign, t.keep ? 0 : end, t.keep ? end : kNever};
  }
  for (int r = 0; r < end; ++r)
    for (int32_t t : program.records[r].tensors)
      if (t >= 0) lives[t].first = std::min(lives[t].first, r), lives[t].last = std::max(lives[t].last, r);

  std::erase_if(lives, [&](const Life& l) { return program.tensors[l.tensor].buffer || l.last == kNever; });
  std::stable_sort(lives.begin(), lives.end(), [](const Life& a, const Life& b) { return a.bytes > b.bytes; });

  std::vector<Life> placed;  // by offset
  for (const Life& life : lives) {
    size_t offset = 0;
    for (const Life& other : placed) {
      if (!overlap(life, other)) continue;
      const size_t at = program.tensors[other.tensor].offset;
      if (offset + life.bytes <= at) break;  // the gap before `other` is wide enough
      offset = std::max(offset, at + other.bytes);
    }
    program.tensors[life.tensor].offset = offset;
    program.arena_bytes = std::max(program.arena_bytes, offset + life.bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset,
                                   [&](size_t o, const Life& l) { return o < program.tensors[l.tensor].offset; }),
                  life);
  }
}

}  // namespace openmoe
