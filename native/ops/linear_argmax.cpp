// launch   one item per thread at a time, as in linear (support/panel_items.h)
// traffic  the weights of the ids that may be taken, once per 96 rows; the products never leave the caches
// why      the logits of a row are a megabyte at 256384 ids, written and read again for one number. Which of two
//          candidates is better does not depend on the order of asking, so a thread keeps its own best of each row and
//          no bit depends on threads. Only greedy rows: a temperature needs every logit twice, first for the largest
//          and then for weights relative to it, so `sample` reads them from memory
#include "ops/linear_argmax.h"

#include "device/cpu.h"
#include "support/panel_matmul.h"
#include "support/vocab_select.h"

namespace openmoe::OPENMOE_ISA {

namespace {

// What each thread has found, by row; a thread's part starts at a cache line of its own.
class Findings {
 public:
  Findings(int64_t num_rows, Cpu& cpu)
      : threads_(cpu.num_threads()), keys_((num_rows + 7) / 8 * 8), poisons_(spread_stride(num_rows * kLanes)) {
    best_ = cpu.workspace<Key>(threads_ * (keys_ + poisons_ / 2));
    poison_ = reinterpret_cast<float*>(best_ + threads_ * keys_);
    std::fill_n(best_, threads_ * keys_, kNoKey);
    std::fill_n(poison_, threads_ * poisons_, 0.0f);
  }

  // Products of a row with the ids from `first` on.
  void note(int thread, int64_t row, int64_t first, const float* products, int64_t n) {
    float* poison = poison_ + thread * poisons_ + row * kLanes;
    store(poison, add(load(poison), poison_of(products, n)));
    Key& best = best_[thread * keys_ + row];
    const float largest = reduce_max(max_of(products, n));
    if (largest < score_of(best)) return;  // never true of the first: no key has a score that is no number
    best = std::min(best, key_of(largest, first + (std::find(products, products + n, largest) - products)));
  }

  int32_t token(int64_t row) const {
    Key best = kNoKey;
    float poison = 0;
    for (int64_t thread = 0; thread < threads_; ++thread) {
      best = std::min(best, best_[thread * keys_ + row]);
      poison += reduce_add(load(poison_ + thread * poisons_ + row * kLanes));
    }
    return poison == 0 && score_of(best) > -kInfinity ? id_of(best) : -1;
  }

 private:
  int64_t threads_, keys_, poisons_;  // per thread
  Key* best_;
  float* poison_;  // [row][lane], NaN once a product was NaN or +infinity
};

}  // namespace

void linear_argmax(const LinearArgmax& a, Cpu& cpu) {
  if (a.num_rows == 0) return;
  int32_t* token = a.token.as<int32_t>();
  const int64_t vocab = a.vocab_limit > 0 ? std::min(a.vocab_limit, a.vocab_size) : a.vocab_size;
  if (a.in_features == 0)  // all products are zero; a matrix of no bytes may have any number of rows
    return void(std::fill_n(token, a.num_rows, vocab > 0 ? 0 : -1));
  const Matmul m{.x = a.x.as<float>(),
                 .weight_dtype = a.weight.dtype,
                 .residual = nullptr,
                 .out = nullptr,
                 .num_rows = a.num_rows,
                 .in_features = a.in_features,
                 .out_features = vocab};
  Findings findings(a.num_rows, cpu);
  const PanelProduct product(m, cpu);
  const std::vector<RowGroup> rows{{.weight = a.weight.as<std::byte>(), .first_row = 0, .num_rows = a.num_rows}};
  const int64_t panels = num_panels(vocab);
  for_items(rows, panels, panel_bytes(m.weight_dtype, m.in_features), cpu, [&](const Item& item, int thread) {
    float* sums = cpu.scratch<float>(thread, item.rows * kPanel);
    for (int64_t panel = item.first; panel < item.end; ++panel) {
      product(item, panel, panel + 1 < panels ? panel + 1 : -1, sums);
      const int64_t first = panel * kPanel, ids = std::min<int64_t>(kPanel, vocab - first);
      for (int64_t r = 0; r < item.rows; ++r) findings.note(thread, item.first_row + r, first, sums + r * kPanel, ids);
    }
  });
  for (int64_t row = 0; row < a.num_rows; ++row) token[row] = findings.token(row);
}

}  // namespace openmoe::OPENMOE_ISA
