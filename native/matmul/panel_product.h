// Products of rows with panels of any dtype: what the ops of the matrix engine share (matmul/panel_matmul.h), compiled
// once for all of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cpu.h"
#include "matmul/panel.h"
#include "matmul/panel_items.h"

namespace openmoe::OPENMOE_ISA {

// Products with any panel of matrices of one dtype. x is rounded first to what it is multiplied with: many rows once,
// on all threads. A few are rounded by every thread for itself, which takes less time than to wait for another's.
class PanelProduct {
 public:
  PanelProduct(const Matmul& m, Cpu& cpu);

  size_t panel_bytes() const { return panel_bytes_; }

  // To be called on each thread before its first product.
  void prepare(int thread) const;

  // Neighbouring panels that rows are best multiplied with in one call.
  int64_t panels_at_once(int64_t num_rows) const;

  // sums[i][r] = x[first_row + r] times the 32 columns of each panel in [first, end);
  // this thread probably goes on with the next, if that is before `limit`.
  void operator()(const Item& item, int64_t first, int64_t end, int64_t limit, float* sums, int thread) const;

 private:
  void run_one(const Item& item, int64_t panel, int64_t next, float* sums, int thread) const;
  uint32_t* rows_of(int thread) const { return memory_ + (each_ ? thread * copy_words_ : 0); }
  int64_t words_per_row() const;
  void round_rows(int64_t begin, int64_t end, uint32_t* memory) const;

  const Matmul m_;
  const size_t panel_bytes_;
  const bool each_;  // thread has a copy of its own
  int64_t copy_words_;
  uint32_t* memory_ = nullptr;
};

}  // namespace openmoe::OPENMOE_ISA
