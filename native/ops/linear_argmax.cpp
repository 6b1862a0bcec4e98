// launch   one item per thread at a time, as in linear (matmul/panel_items.h)
// traffic  the weights of the ids that may be taken, once per 96 rows; the products never leave the caches
// why      the logits of a row are a megabyte at 256384 ids, written and read again for one number. Which of two
//          candidates is better does not depend on the order of asking, so a thread keeps its own best of each row and
//          no bit depends on threads. Only greedy rows: a temperature needs every logit twice, first for the largest
//          and then for weights relative to it, so `sample` reads them from memory
#include "ops/linear_argmax.h"

#include "device/cpu.h"
#include "matmul/panel_matmul.h"
#include "support/vocab_select.h"

namespace openmoe::OPENMOE_ISA {

namespace {

// What a thread has found of a row.
struct Finding {
  Key best = kNoKey;
  bool poisoned = false;  // a product was NaN or +infinity
};

class Findings {
 public:
  Findings(int64_t num_rows, Cpu& cpu)
      : threads_(cpu.num_threads()),
        stride_((num_rows + 3) / 4 * 4),
        findings_(cpu.workspace<Finding>(threads_ * stride_)) {
    std::fill_n(findings_, threads_ * stride_, Finding{});
  }

  // Products of a row with the ids from `first` on.
  void note(int thread, int64_t row, int64_t first, const float* products, int64_t n) {
    Finding& f = findings_[thread * stride_ + row];
    if (all_below(products, n, score_of(f.best))) return;  // never true of the first: kNoKey has NaN for a score
    f.poisoned |= any_nan(poison_of(products, n));
    const float largest = reduce_max(max_of(products, n));
    f.best = std::min(f.best, key_of(largest, first + (std::find(products, products + n, largest) - products)));
  }

  int32_t token(int64_t row) const {
    Finding all;
    for (int64_t thread = 0; thread < threads_; ++thread) {
      const Finding& f = findings_[thread * stride_ + row];
      all = {.best = std::min(all.best, f.best), .poisoned = all.poisoned || f.poisoned};
    }
    return !all.poisoned && score_of(all.best) > -kInfinity ? id_of(all.best) : -1;
  }

 private:
  int64_t threads_, stride_;  // four findings are a cache line: no two threads share one
  Finding* findings_;         // [thread][row]
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
  for_items(product, rows, panels, 1, cpu, [&](const Item& item, int thread) {
    for_panels(product, item, panels, cpu, thread, [&](int64_t panel, const float* sums) {
      const int64_t first = panel * kPanel, ids = std::min<int64_t>(kPanel, vocab - first);
      for (int64_t r = 0; r < item.rows; ++r) findings.note(thread, item.first_row + r, first, sums + r * kPanel, ids);
    });
  });
  for (int64_t row = 0; row < a.num_rows; ++row) token[row] = findings.token(row);
}

}  // namespace openmoe::OPENMOE_ISA
