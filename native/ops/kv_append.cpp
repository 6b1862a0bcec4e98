// launch   sequences x kv heads: two threads never write to the same cache line of a page, which neighbouring tokens
//          share
// traffic  k and v in, the same out; of a single token, a whole cache line for every pair of its key: memory bound
// why      keys are transposed here, once, so that attention reads them as it reads weights (matmul/panel.h). Pairs,
//          because half as many lines are then touched, and attention is next to read these anyway
#include "ops/kv_append.h"

#include "device/cpu.h"
#include "support/paged_batch.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

static void put_value(const float* from, int64_t head_dim, float* to) { std::copy(from, from + head_dim, to); }
static void put_value(const float* from, int64_t head_dim, bf16* to) {
  for (int64_t d = 0; d < head_dim; ++d) to[d] = to_bf16(from[d]);
}

static void put_key(const float* from, int64_t head_dim, float* page, int64_t slot) {
  for (int64_t d = 0; d < head_dim; ++d) page[d * kPageTokens + slot] = from[d];
}
static void put_key(const float* from, int64_t head_dim, bf16* page, int64_t slot) {
  constexpr int64_t kBlock = 64;  // rounded in vectors before it is dealt out
  bf16 rounded[kBlock];
  for (int64_t d = 0; d < head_dim; d += kBlock) {
    const int64_t n = std::min(kBlock, head_dim - d);
    bf16* to = page + d * kPageTokens;
    put_value(from + d, n, rounded);
    for (int64_t i = 0; i + 1 < n; i += 2) std::memcpy(to + i * kPageTokens + 2 * slot, rounded + i, 2 * sizeof(bf16));
    if (n % 2) to[(n - 1) * kPageTokens + slot] = rounded[n - 1];
  }
}

// Where a position of one head lies.
template <class T>
struct Slot {
  T *keys, *value;  // the page, and the row within
  int64_t index;

  Slot(const KvAppend& a, const Sequence& seq, int64_t head, int64_t row) {
    const int64_t position = seq.first_position + row;
    const int64_t page = int64_t{seq.pages[position / kPageTokens]} * a.num_kv_heads + head;
    index = position % kPageTokens;
    keys = a.k_pages.as<T>() + page * kPageTokens * a.head_dim;
    value = a.v_pages.as<T>() + (page * kPageTokens + index) * a.head_dim;
  }
};

// Writes keys and values of one sequence and head.
template <class T>
static void append_head(const KvAppend& a, const Sequence& seq, int64_t head) {
  const int64_t width = int64_t{a.num_kv_heads} * a.head_dim;
  for (int64_t r = 0; r < seq.num_rows; ++r) {
    const Slot<T> slot(a, seq, head, r);
    if (r + kPageTokens < seq.num_rows) {  // a share of the next page
      const Slot<T> next(a, seq, head, r + kPageTokens);
      for (int64_t d = 0; d < a.head_dim; d += 64 / sizeof(T)) {
        __builtin_prefetch(next.keys + next.index * a.head_dim + d);
        __builtin_prefetch(next.value + d);
      }
    }
    const int64_t from = (seq.first_row + r) * width + head * a.head_dim;
    put_key(a.k.as<float>() + from, a.head_dim, slot.keys, slot.index);
    put_value(a.v.as<float>() + from, a.head_dim, slot.value);
  }
}

void kv_append(const KvAppend& a, Cpu& cpu) {
  check_batch(a, /*history=*/false);
  const int64_t items = int64_t{a.num_seqs} * a.num_kv_heads;
  if (items == 0 || a.head_dim == 0) return;
  // Of one new token, a head writes head_dim / 2 pieces of as many cache lines: 192 of them take a microsecond.
  const int64_t dimensions = std::max<int64_t>(1, a.num_tokens / a.num_seqs) * a.head_dim;
  cpu.parallel_for(items, std::max<int64_t>(1, 384 / dimensions), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const Sequence seq(a, i / a.num_kv_heads);
      a.k_pages.dtype == DType::bf16 ? append_head<bf16>(a, seq, i % a.num_kv_heads)
                                     : append_head<float>(a, seq, i % a.num_kv_heads);
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
