// launch   kv heads: two threads never write to the same cache line of a page, which neighbouring tokens share
// traffic  k and v in, the same out: memory bound
// why      keys are transposed here, once, so that attention reads them as it reads weights (support/panel.h)
#include "ops/kv_append.h"

#include "device/cpu.h"
#include "support/paged_batch.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

static void assign(float& to, float x) { to = x; }
static void assign(bf16& to, float x) { to = to_bf16(x); }

template <class T>
static void append_head(const KvAppend& a, int64_t head) {
  const int64_t row = int64_t{a.num_kv_heads} * a.head_dim, page_head = int64_t{kPageTokens} * a.head_dim;
  for (int64_t s = 0; s < a.num_seqs; ++s) {
    const Sequence seq(a, s);
    for (int64_t r = 0; r < seq.num_rows; ++r) {
      const int64_t position = seq.first_position + r, slot = position % kPageTokens;
      const int64_t page = (int64_t{seq.pages[position / kPageTokens]} * a.num_kv_heads + head) * page_head;
      const float* k = a.k.as<float>() + (seq.first_row + r) * row + head * a.head_dim;
      const float* v = a.v.as<float>() + (seq.first_row + r) * row + head * a.head_dim;
      T* to_k = a.k_pages.as<T>() + page + slot;
      T* to_v = a.v_pages.as<T>() + page + slot * a.head_dim;
      for (int64_t d = 0; d < a.head_dim; ++d) assign(to_k[d * kPageTokens], k[d]);
      for (int64_t d = 0; d < a.head_dim; ++d) assign(to_v[d], v[d]);
    }
  }
}

void kv_append(const KvAppend& a, Cpu& cpu) {
  check_batch(a, /*history=*/false);
  const int64_t numbers = 2 * int64_t{a.num_tokens} * a.head_dim;
  cpu.parallel_for(a.num_kv_heads, rows_per_chunk(numbers), [&](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; ++head)
      a.k_pages.dtype == DType::bf16 ? append_head<bf16>(a, head) : append_head<float>(a, head);
  });
}

}  // namespace openmoe::OPENMOE_ISA
