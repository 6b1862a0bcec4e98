// launch   a block of neighbouring rows of one sequence and kv head, or of several heads where one block is all, per
//          chunk of parallel_for. A row is a query of one head; with grouped heads the rows of a query, one per head
//          of the group, follow each other.
// traffic  keys and values of the sequence once per block. Decode (one row) is memory bound, prefill compute bound
// why      scores of a block are kept whole, in the thread's own scratch, rather than folded as they come: then every
//          score is one chain over head_dim, every output one chain over key positions, and a row has the same bits
//          whatever block, chunk of the prompt or batch it came in
#include "ops/attention.h"

#include "device/cpu.h"
#include "support/attention_page.h"
#include "support/paged_batch.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

// An item of decode is a few neighbouring heads, whose parts of a page lie side by side: up to kStreamBytes are read in
// one go, as long as the scores of all of them stay in L1 and no thread goes with fewer than kItemsPerThread.
static constexpr int64_t kStreamBytes = 24 << 10, kScoreBytes = 32 << 10, kItemsPerThread = 3;

// Rows of one sequence for neighbouring kv heads.
struct Block {
  int64_t seq, first_head, num_heads, first_row, num_rows;
};

// The pages of a block, as tensors have them and as they are read: keys page by page, each for all heads, which lie
// side by side, then values likewise.
template <class T>
class Pages {
 public:
  Pages(const Attention& a, const Sequence& seq, const Block& block, int64_t count)
      : a_(a), pages_(seq.pages), block_(block), count_(count), size_(int64_t{a.head_dim} * kPageTokens) {
    for (int i = 0; i < kAhead; ++i) step();
  }

  const T* keys(int64_t page, int64_t head) const { return at(a_.k_pages, page, head); }
  const T* values(int64_t page, int64_t head) const { return at(a_.v_pages, page, head); }

  // What to fetch while the next one is worked on.
  const std::byte* next() {
    const std::byte* fetched =
        reinterpret_cast<const std::byte*>(at(of_values_ ? a_.v_pages : a_.k_pages, page_, head_));
    step();
    return fetched;
  }

 private:
  const T* at(const In& tensor, int64_t page, int64_t head) const {
    return tensor.as<T>() + (int64_t{pages_[page]} * a_.num_kv_heads + block_.first_head + head) * size_;
  }
  void step() {
    if (++head_ < block_.num_heads) return;
    head_ = 0;
    if (++page_ < count_) return;
    page_ = of_values_ ? count_ - 1 : 0;
    of_values_ = true;
  }

  const Attention& a_;
  const int32_t* pages_;
  const Block& block_;
  int64_t count_, size_;
  int64_t page_ = 0, head_ = 0;
  bool of_values_ = false;
};

// How many keys the query of each row of a block sees; rows of a group are one query.
struct VisibleKeys {
  int64_t first_position, first_row, group;
  int64_t operator()(int r) const { return first_position + (first_row + r) / group + 1; }
};

// Adds page `p` to `kCount` rows from `row` on. What all of them see of it is added to all at once, the rest to each
// half by itself: a weight of zero would not silence an infinite value.
template <int kCount, class T>
void add_rows(PageSum<T> page, int64_t p, const VisibleKeys& num_keys, int row) {
  page.end = static_cast<int>(std::clamp<int64_t>(num_keys(row) - p * kPageTokens, 0, kPageTokens));
  if (page.end > page.begin) add_page<kCount>(page);
  if (page.end == kPageTokens) return;
  page.begin = std::max(page.begin, page.end);
  if constexpr (kCount > 1) {
    add_rows<kCount / 2>(page, p, num_keys, row);
    page.probs += kCount / 2 * kPageTokens, page.out += kCount / 2 * page.out_stride;
    add_rows<kCount - kCount / 2>(page, p, num_keys, row + kCount / 2);
  }
}

template <class T, int kRows>
class BlockKernel {
 public:
  BlockKernel(const Attention& a, const Block& block, Cpu& cpu, int thread)
      : a_(a),
        block_(block),
        seq_(a, block.seq),
        group_(a.num_heads / a.num_kv_heads),
        num_keys_{seq_.first_position, block.first_row, group_} {
    num_pages_ = (num_keys_(kRows - 1) + kPageTokens - 1) / kPageTokens;
    out_stride_ = (a.head_dim + kLanes - 1) / kLanes * kLanes;
    head_floats_ = num_pages_ * kTile + kRows * (out_stride_ + a.head_dim + 1);
    scratch_ = cpu.scratch<float>(thread, block.num_heads * head_floats_);
  }

  void run() {
    Pages<T> pages(a_, seq_, block_, num_pages_);
    for (int64_t h = 0; h < block_.num_heads; ++h) load_rows(h);
    for (int64_t p = 0; p < num_pages_; ++p)
      for (int64_t h = 0; h < block_.num_heads; ++h)
        score_page<kRows>(q(h), pages.keys(p, h), a_.head_dim, tile(h, p), pages.next());

    for (int64_t h = 0; h < block_.num_heads; ++h) {
      for (int r = 0; r < kRows; ++r) sums(h)[r] = softmax_row(tile(h, 0) + r * kPageTokens, kTile, num_keys_(r));
      std::fill(out(h), out(h) + kRows * out_stride_, 0.0f);
    }
    for (int64_t p = 0; p < num_pages_; ++p)
      for (int64_t h = 0; h < block_.num_heads; ++h) add_values(p, h, pages);
    for (int64_t h = 0; h < block_.num_heads; ++h) write(h);
  }

 private:
  static constexpr int kTile = kRows * kPageTokens;

  // A row's place among q and out.
  int64_t place(int64_t head, int r) const {
    const int64_t row = block_.first_row + r;
    const int64_t q_head = (block_.first_head + head) * group_ + row % group_;
    return ((seq_.first_row + row / group_) * a_.num_heads + q_head) * a_.head_dim;
  }

  float* tile(int64_t head, int64_t page) const { return scratch_ + head * head_floats_ + page * kTile; }
  float* out(int64_t head) const { return tile(head, num_pages_); }
  float* q(int64_t head) const { return out(head) + kRows * out_stride_; }
  float* sums(int64_t head) const { return q(head) + kRows * a_.head_dim; }

  // Of a full block, asks for the rows of the one that follows, which this thread probably takes next. After the last
  // there are none: asking for what is not there does nothing.
  void load_rows(int64_t head) const {
    const auto row = [&](int r) { return a_.q.as<float>() + place(head, r); };
    for (int r = 0; r < kRows; ++r) std::copy_n(row(r), a_.head_dim, q(head) + r * a_.head_dim);
    if constexpr (kRows == kMaxRows)
      for (int r = 0; r < kRows; ++r)
        for (int64_t d = 0; d < a_.head_dim; d += 64 / sizeof(float)) __builtin_prefetch(row(r + kRows) + d);
  }

  void add_values(int64_t p, int64_t head, Pages<T>& pages) const {
    add_rows<kRows>(PageSum<T>{.probs = tile(head, p),
                               .values = pages.values(p, head),
                               .head_dim = a_.head_dim,
                               .begin = 0,
                               .end = 0,
                               .out = out(head),
                               .out_stride = out_stride_,
                               .ahead = pages.next()},
                    p, num_keys_, 0);
  }

  void write(int64_t head) const {
    for (int r = 0; r < kRows; ++r) {
      float* to = a_.out.as<float>() + place(head, r);
      const float* from = out(head) + r * out_stride_;
      const Vec sum = set1(sums(head)[r]);
      for_vectors(a_.head_dim, [&](int64_t d, auto n) { store(to + d, div(load(from + d), sum), n); });
    }
  }

  const Attention& a_;
  const Block& block_;
  const Sequence seq_;
  const int64_t group_;
  const VisibleKeys num_keys_;
  int64_t num_pages_, out_stride_, head_floats_;
  float* scratch_;
};

template <class T, int kRows = kMaxRows>
static void attend(const Attention& a, const Block& block, Cpu& cpu, int thread) {
  if constexpr (kRows > 1)
    if (block.num_rows < kRows) return attend<T, kRows - 1>(a, block, cpu, thread);
  BlockKernel<T, kRows>(a, block, cpu, thread).run();
}

// How a sequence is cut: into blocks of rows, and its heads into parts. Blocks of one part follow each other, as they
// read the same keys.
struct Cut {
  int64_t rows, blocks, parts;
};

static Cut cut_of(const Attention& a, int64_t s, int64_t min_parts) {
  const Sequence seq(a, s);
  const int64_t heads = a.num_kv_heads, rows = seq.num_rows * (a.num_heads / heads);
  const int64_t blocks = (rows + kMaxRows - 1) / kMaxRows;
  if (blocks != 1) return {rows, blocks, heads};
  const auto parts_of = [&](int64_t head_bytes, int64_t part_bytes) {
    return (heads * head_bytes + part_bytes - 1) / part_bytes;
  };
  const int64_t parts = std::max({min_parts, parts_of(rows * seq.end_position() * sizeof(float), kScoreBytes),
                                  parts_of(a.head_dim * kPageTokens * bytes_of(a.k_pages.dtype), kStreamBytes)});
  return {rows, 1, std::min(parts, heads)};
}

void attention(const Attention& a, Cpu& cpu) {
  check_batch(a, /*history=*/true);
  if (a.num_tokens == 0 || a.num_kv_heads == 0) return;
  const int64_t min_parts = (kItemsPerThread * cpu.num_threads() + a.num_seqs - 1) / a.num_seqs;

  int64_t* first_block = cpu.shared_scratch<int64_t>(int64_t{a.num_seqs} + 1);
  first_block[0] = 0;
  for (int64_t s = 0; s < a.num_seqs; ++s) {
    const Cut cut = cut_of(a, s, min_parts);
    first_block[s + 1] = first_block[s] + cut.blocks * cut.parts;
  }
  cpu.parallel_for(first_block[a.num_seqs], 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t s = std::upper_bound(first_block, first_block + a.num_seqs + 1, i) - first_block - 1;
      const Cut cut = cut_of(a, s, min_parts);
      const int64_t part = (i - first_block[s]) / cut.blocks, first_row = (i - first_block[s]) % cut.blocks * kMaxRows;
      const int64_t first_head = part * a.num_kv_heads / cut.parts;
      const Block block{.seq = s,
                        .first_head = first_head,
                        .num_heads = (part + 1) * a.num_kv_heads / cut.parts - first_head,
                        .first_row = first_row,
                        .num_rows = std::min<int64_t>(kMaxRows, cut.rows - first_row)};
      a.k_pages.dtype == DType::bf16 ? attend<bf16>(a, block, cpu, thread) : attend<float>(a, block, cpu, thread);
    }
  });
}

}  // namespace openmoe::OPENMOE_ISA
