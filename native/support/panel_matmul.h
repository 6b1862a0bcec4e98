// The matrix engine of the CPU backend: out = x W^T over packed panels (support/panel.h) for groups of rows, each with
// weights of its own. linear is one group, grouped_gemm one per expert.
//
// An output is one chain of multiply-adds over k, in an order that depends on nothing but the dtype: GEMV and GEMM, any
// batch and any number of threads give the same bits.
#pragma once

#include <vector>

#include "support/float_matmul.h"
#include "support/panel_items.h"
#include "support/quant_matmul.h"

namespace openmoe::OPENMOE_ISA {

// Products with any panel of matrices of one dtype. x is rounded first to what it is multiplied with: many rows once,
// on all threads. A few are rounded by every thread for itself, which takes less time than to wait for another's.
class PanelProduct {
 public:
  PanelProduct(const Matmul& m, Cpu& cpu)
      : m_(m), panel_bytes_(openmoe::panel_bytes(m.weight_dtype, m.in_features)), each_(m.num_rows <= kFewRows) {
    copy_words_ = (m.num_rows * words_per_row() + 15) / 16 * 16;
    if (copy_words_ == 0) return;
    memory_ = cpu.shared_scratch<uint32_t>(copy_words_ * (each_ ? cpu.num_threads() : 1));
    if (each_) return;
    cpu.parallel_for(m.num_rows, rows_per_chunk(4 * m.in_features),
                     [&](int64_t begin, int64_t end, int) { round_rows(begin, end, memory_); });
  }

  size_t panel_bytes() const { return panel_bytes_; }

  // To be called on each thread before its first product.
  void prepare(int thread) const {
    if (each_ && copy_words_ > 0) round_rows(0, m_.num_rows, rows_of(thread));
  }

  // Neighbouring panels that rows are best multiplied with in one call.
  int64_t panels_at_once(int64_t num_rows) const {
    const bool in_turn = m_.weight_dtype == DType::bf16 && num_rows <= kDirectTileRows;
    return in_turn ? kPanelsInTurn : 1;
  }

  // sums[i][r] = x[first_row + r] times the 32 columns of each panel in [first, end);
  // this thread probably goes on with the next, if that is before `limit`.
  void operator()(const Item& item, int64_t first, int64_t end, int64_t limit, float* sums, int thread) const {
    if constexpr (kPanelsInTurn > 1)
      if (m_.in_features > 0 && end - first > 1 && panels_at_once(item.rows) > 1)
        return run_in_turn<Bf16Weights>(panel_rows<Bf16Weights>(m_.x, m_.in_features, item, first, sums), end - first);
    for (int64_t panel = first; panel < end; ++panel, sums += item.rows * kPanel)
      run_one(item, panel, panel + 1 < limit ? panel + 1 : -1, sums, thread);
  }

 private:
  void run_one(const Item& item, int64_t panel, int64_t next, float* sums, [[maybe_unused]] int thread) const {
    if (m_.in_features == 0) return void(std::fill_n(sums, item.rows * kPanel, 0.0f));
    [[maybe_unused]] const std::byte* packed = item.weight + panel * panel_bytes_;
    const std::byte* follows = next < 0 ? nullptr : item.weight + next * panel_bytes_;
    if (is_quantised(m_.weight_dtype)) {
#if OPENMOE_ISA_LEVEL >= 1
      const QuantPanel p{.first_row = item.first_row, .num_rows = item.rows, .packed = packed};
      return m_.weight_dtype == DType::int8
                 ? run_quant_panel<Int8Group>(quant_rows<Int8Group>(rows_of(thread)), p, sums)
                 : run_quant_panel<Int4Group>(quant_rows<Int4Group>(rows_of(thread)), p, sums);
#else
      return run_wide_panel(m_, item.first_row, item.rows, packed, sums);
#endif
    }
#if OPENMOE_ISA_LEVEL == 3
    if (m_.weight_dtype == DType::bf16)
      return run<Bf16PairWeights>(rows_of(thread), pairs_stride(), item, panel, follows, sums);
#else
    if (m_.weight_dtype == DType::bf16) return run<Bf16Weights>(m_.x, m_.in_features, item, panel, follows, sums);
#endif
    run<F32Weights>(m_.x, m_.in_features, item, panel, follows, sums);
  }

  uint32_t* rows_of(int thread) const { return memory_ + (each_ ? thread * copy_words_ : 0); }

#if OPENMOE_ISA_LEVEL == 3
  int64_t pairs_stride() const { return spread_stride((m_.in_features + 1) / 2); }
#endif

#if OPENMOE_ISA_LEVEL >= 1
  template <class Group>
  QuantRows quant_rows(uint32_t* memory) const {
    return QuantRows(QuantShape::of<Group>(m_.in_features), m_.num_rows, memory);
  }
#endif

  int64_t words_per_row() const {
    if (m_.in_features == 0) return 0;
#if OPENMOE_ISA_LEVEL == 3
    if (m_.weight_dtype == DType::bf16) return pairs_stride();
#endif
#if OPENMOE_ISA_LEVEL >= 1
    if (m_.weight_dtype == DType::int8) return QuantShape::of<Int8Group>(m_.in_features).words();
    if (m_.weight_dtype == DType::int4) return QuantShape::of<Int4Group>(m_.in_features).words();
#endif
    return 0;
  }

  void round_rows(int64_t begin, int64_t end, [[maybe_unused]] uint32_t* memory) const {
    for (int64_t r = begin; r < end; ++r) {
      [[maybe_unused]] const float* x = m_.x + r * m_.in_features;
#if OPENMOE_ISA_LEVEL == 3
      if (m_.weight_dtype == DType::bf16) round_to_pairs(x, m_.in_features, memory + r * pairs_stride());
#endif
#if OPENMOE_ISA_LEVEL >= 1
      if (m_.weight_dtype == DType::int8)
        quantise_row<Int8Group>(x, m_.in_features, kInt8Zero, r, quant_rows<Int8Group>(memory));
      if (m_.weight_dtype == DType::int4)
        quantise_row<Int4Group>(x, m_.in_features, 1, r, quant_rows<Int4Group>(memory));
#endif
    }
  }

  template <class W>
  PanelRows<typename W::X> panel_rows(const typename W::X* x, int64_t stride, const Item& item, int64_t panel,
                                      float* sums) const {
    return {.x = x + item.first_row * stride,
            .x_stride = stride,
            .rows = item.rows,
            .word = reinterpret_cast<const uint32_t*>(item.weight + panel * panel_bytes_),
            .num_k = m_.in_features,
            .sums = sums,
            .next = {}};
  }

  template <class W>
  void run(const typename W::X* x, int64_t stride, const Item& item, int64_t panel, const std::byte* next,
           float* sums) const {
    run_panel<W>(panel_rows<W>(x, stride, item, panel, sums), next);
  }

  const Matmul m_;
  const size_t panel_bytes_;
  const bool each_;  // thread has a copy of its own
  int64_t copy_words_;
  uint32_t* memory_ = nullptr;
};

// body(item, thread) for every item of a product, whose units are `unit_panels` panels each.
template <class F>
void for_items(const PanelProduct& product, const std::vector<RowGroup>& groups, int64_t units, int64_t unit_panels,
               Cpu& cpu, F&& body) {
  const size_t unit_bytes = unit_panels * product.panel_bytes();
  const auto least = [&](int64_t rows) { return (product.panels_at_once(rows) + unit_panels - 1) / unit_panels; };
  for_items(groups, units, unit_bytes, least, cpu, [&](int thread) { product.prepare(thread); }, body);
}

// body(panel, sums) for every panel of an item, with the products in [row][32] sums.
template <class F>
void for_panels(const PanelProduct& product, const Item& item, int64_t limit, Cpu& cpu, int thread, F&& body) {
  const int64_t at_once = product.panels_at_once(item.rows), size = item.rows * kPanel;
  // Not straight into `out`: rows a multiple of 4 KiB apart would push each other out of L1.
  float* sums = cpu.scratch<float>(thread, at_once * size);
  for (int64_t first = item.first; first < item.end; first += at_once) {
    const int64_t end = std::min(first + at_once, item.end);
    product(item, first, end, limit, sums, thread);
    for (int64_t panel = first; panel < end; ++panel) body(panel, sums + (panel - first) * size);
  }
}

// The products of an item with a panel to where they belong, plus the residual.
inline void write_panel(const Matmul& m, const Item& item, int64_t panel, const float* sums) {
  const int64_t column = panel * kPanel, columns = std::min<int64_t>(kPanel, m.out_features - column);
  for (int64_t r = 0; r < item.rows; ++r) {
    const int64_t at = (item.first_row + r) * m.out_features + column;
    if (!m.residual)
      std::memcpy(m.out + at, sums + r * kPanel, columns * sizeof(float));
    else
      for_vectors(columns, [&](int64_t c, auto n) {
        store(m.out + at + c, add(load(m.residual + at + c, n), load(sums + r * kPanel + c, n)), n);
      });
  }
}

// Groups without rows must be left out.
inline void matmul(const Matmul& m, std::vector<RowGroup> groups, Cpu& cpu) {
  const PanelProduct product(m, cpu);
  const int64_t panels = num_panels(m.out_features);
  for_items(product, groups, panels, 1, cpu, [&](const Item& item, int thread) {
    for_panels(product, item, panels, cpu, thread,
               [&](int64_t panel, const float* sums) { write_panel(m, item, panel, sums); });
  });
}

}  // namespace openmoe::OPENMOE_ISA
