// launch   a block of neighbouring rows of one sequence and kv head per chunk of parallel_for. A row is a query of one
//          head; with grouped heads the rows of a query, one per head of the group, follow each other.
// traffic  keys and values of the sequence once per block. Decode (one row) is memory bound, prefill compute bound
// why      scores of a block are kept whole, in the thread's own scratch, rather than folded as they come: then every
//          score is one chain over head_dim, every output one chain over key positions, and a row has the same bits
//          whatever block, chunk of the prompt or batch it came in
#include "ops/attention.h"

#include "device/cpu.h"
#include "support/paged_batch.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// Rows of a block: as many as leave room for two vectors of sums per row in the registers.
static constexpr int kMaxRows = OPENMOE_ISA_LEVEL >= 2 ? 12 : 6;
// Vectors of sums per row: about a dozen chains hide the latency of a fused multiply-add.
static constexpr int cols_of(int rows) { return rows >= 4 ? 2 : rows >= 2 ? 4 : 8; }

struct Block {
  int64_t seq, kv_head, first_row, num_rows;
};

// tile[r][t] = q[r] . key t of the page
template <int kRows, class T>
static void score_page(const float* q, const T* keys, int64_t head_dim, float* tile) {
  constexpr int kCols = std::min(cols_of(kRows), kPageTokens / kLanes);
  for (int t = 0; t < kPageTokens; t += kCols * kLanes) {
    Vec sum[kRows][kCols];
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kCols; ++c) sum[r][c] = zero();
    for (int64_t d = 0; d < head_dim; ++d) {
      Vec key[kCols];
      for (int c = 0; c < kCols; ++c) key[c] = load(keys + d * kPageTokens + t + c * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec x = set1(q[d * kRows + r]);
        for (int c = 0; c < kCols; ++c) sum[r][c] = fma(x, key[c], sum[r][c]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kCols; ++c) store(tile + r * kPageTokens + t + c * kLanes, sum[r][c]);
  }
}

// Makes the scores of the first `num_keys` positions of a row exp(score - highest) and returns their sum; the rest of
// the row's last page becomes zero. Row r of page p is at tiles + p * stride.
static float softmax_row(float* tiles, int64_t stride, int64_t num_keys) {
  const int64_t pages = (num_keys + kPageTokens - 1) / kPageTokens;
  float* const last = tiles + (pages - 1) * stride;
  const int64_t used = num_keys - (pages - 1) * kPageTokens;
  std::fill(last + used, last + kPageTokens, -std::numeric_limits<float>::infinity());
  Vec highest = load(tiles);
  for (int64_t p = 0; p < pages; ++p)
    for (int t = 0; t < kPageTokens; t += kLanes) highest = max(highest, load(tiles + p * stride + t));
  highest = set1(reduce_max(highest));

  Vec sum = zero();
  for (int64_t p = 0; p < pages; ++p) {
    float* tile = tiles + p * stride;
    for (int t = 0; t < kPageTokens; t += kLanes) store(tile + t, exp(sub(load(tile + t), highest)));
    if (tile == last) std::fill(last + used, last + kPageTokens, 0.0f);  // exp() of -infinity is a little more
    for (int t = 0; t < kPageTokens; t += kLanes) sum = add(sum, load(tile + t));
  }
  return reduce_add(sum);
}

// out[r] += probs[r][t] * values[t] for t in [begin, end), over kCols vectors of columns; `lanes` is that of the last.
template <int kRows, int kCols, class T, class Lanes>
static void add_columns(const float* probs, const T* values, int64_t head_dim, int begin, int end, float* out,
                        int64_t out_stride, Lanes lanes) {
  Vec sum[kRows][kCols];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) sum[r][c] = load(out + r * out_stride + c * kLanes);
  for (int t = begin; t < end; ++t) {
    Vec value[kCols];
    for (int c = 0; c < kCols; ++c) value[c] = load(values + t * head_dim + c * kLanes, lanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec p = set1(probs[r * kPageTokens + t]);
      for (int c = 0; c < kCols; ++c) sum[r][c] = fma(p, value[c], sum[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) store(out + r * out_stride + c * kLanes, sum[r][c]);
}

// From column d on. Narrow heads, and what is left of wide ones, take half as many vectors at a time.
template <int kRows, class T, int kCols = cols_of(kRows)>
static void add_page(const float* probs, const T* values, int64_t head_dim, int begin, int end, float* out,
                     int64_t out_stride, int64_t d = 0) {
  for (; d + kCols * kLanes <= head_dim; d += kCols * kLanes)
    add_columns<kRows, kCols>(probs, values + d, head_dim, begin, end, out + d, out_stride, Full{});
  if constexpr (kCols > 1)
    add_page<kRows, T, kCols / 2>(probs, values, head_dim, begin, end, out, out_stride, d);
  else if (d < head_dim)
    add_columns<kRows, 1>(probs, values + d, head_dim, begin, end, out + d, out_stride,
                          Tail{static_cast<int>(head_dim - d)});
}

// Pages lie anywhere, so hardware prefetch stops at the end of each.
static void prefetch_page(const void* page, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const std::byte*>(page) + i);
}

template <class T, int kRows>
static void attend(const Attention& a, const Block& block, Cpu& cpu, int thread) {
  const Sequence seq(a, block.seq);
  const int64_t head_dim = a.head_dim, group = a.num_heads / a.num_kv_heads;
  const int64_t page_size = kPageTokens * head_dim;
  const auto page_at = [&](const In& pages, int64_t p) {
    return pages.as<T>() + (int64_t{seq.pages[p]} * a.num_kv_heads + block.kv_head) * page_size;
  };
  // A row's place among q and out, and how many keys its query sees.
  const auto place = [&](int r) {
    const int64_t row = block.first_row + r;
    return ((seq.first_row + row / group) * a.num_heads + block.kv_head * group + row % group) * head_dim;
  };
  const auto num_keys = [&](int r) { return seq.first_position + (block.first_row + r) / group + 1; };

  const int64_t most = num_keys(kRows - 1), fewest = num_keys(0);
  const int64_t pages = (most + kPageTokens - 1) / kPageTokens;
  constexpr int kTile = kRows * kPageTokens;
  const int64_t out_stride = (head_dim + kLanes - 1) / kLanes * kLanes;
  float* tiles = cpu.scratch<float>(thread, pages * kTile + kRows * (head_dim + out_stride));
  float* out = tiles + pages * kTile;
  float* q = out + kRows * out_stride;

  for (int r = 0; r < kRows; ++r)
    for (int64_t d = 0; d < head_dim; ++d) q[d * kRows + r] = a.q.as<float>()[place(r) + d];
  const auto fetch_next = [&](const In& tensor, int64_t p) {
    if (p + 1 < pages) prefetch_page(page_at(tensor, p + 1), page_size * sizeof(T));
  };
  for (int64_t p = 0; p < pages; ++p) {
    fetch_next(a.k_pages, p);
    score_page<kRows>(q, page_at(a.k_pages, p), head_dim, tiles + p * kTile);
  }
  fetch_next(a.v_pages, -1);

  float sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = softmax_row(tiles + r * kPageTokens, kTile, num_keys(r));

  std::fill(out, out + kRows * out_stride, 0.0f);
  for (int64_t p = 0; p < pages; ++p) {
    const T* values = page_at(a.v_pages, p);
    fetch_next(a.v_pages, p);
    const float* probs = tiles + p * kTile;
    const auto keys_here = [&](int64_t keys) {
      return static_cast<int>(std::clamp<int64_t>(keys - p * kPageTokens, 0, kPageTokens));
    };
    const int shared = keys_here(fewest);
    if (shared > 0) add_page<kRows>(probs, values, head_dim, 0, shared, out, out_stride);
    // Keys that only some rows see are added row by row: a weight of zero would not silence an infinite value.
    for (int r = 1; r < kRows; ++r)
      if (const int end = keys_here(num_keys(r)); end > shared)
        add_page<1>(probs + r * kPageTokens, values, head_dim, shared, end, out + r * out_stride, out_stride);
  }
  for (int r = 0; r < kRows; ++r) {
    float* to = a.out.as<float>() + place(r);
    for_vectors(head_dim,
                [&](int64_t d, auto n) { store(to + d, div(load(out + r * out_stride + d), set1(sums[r])), n); });
  }
}

template <class T, int kRows = kMaxRows>
static void attend_rows(const Attention& a, const Block& block, Cpu& cpu, int thread) {
  if constexpr (kRows > 1)
    if (block.num_rows < kRows) return attend_rows<T, kRows - 1>(a, block, cpu, thread);
  attend<T, kRows>(a, block, cpu, thread);
}

void attention(const Attention& a, Cpu& cpu) {
  check_batch(a, /*history=*/true);
  if (a.num_tokens == 0 || a.num_kv_heads == 0) return;
  const int64_t group = a.num_heads / a.num_kv_heads;
  const auto rows_of = [&](int64_t s) { return Sequence(a, s).num_rows * group; };
  const auto blocks_of = [&](int64_t s) { return (rows_of(s) + kMaxRows - 1) / kMaxRows; };

  // Blocks are counted sequence by sequence, then kv head by kv head: neighbours read the same keys.
  int64_t* first_block = cpu.shared_scratch<int64_t>(int64_t{a.num_seqs} + 1);
  first_block[0] = 0;
  for (int64_t s = 0; s < a.num_seqs; ++s) first_block[s + 1] = first_block[s] + blocks_of(s) * a.num_kv_heads;

  cpu.parallel_for(first_block[a.num_seqs], 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t s = std::upper_bound(first_block, first_block + a.num_seqs + 1, i) - first_block - 1;
      const int64_t in_seq = i - first_block[s], first_row = in_seq % blocks_of(s) * kMaxRows;
      const Block block{s, in_seq / blocks_of(s), first_row, std::min<int64_t>(kMaxRows, rows_of(s) - first_row)};
      a.k_pages.dtype == DType::bf16 ? attend_rows<bf16>(a, block, cpu, thread)
                                     : attend_rows<float>(a, block, cpu, thread);
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
