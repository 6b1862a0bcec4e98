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

// Products with any panel of matrices of one dtype. x is rounded to what they are multiplied with once, on all threads.
class PanelProduct {
 public:
  PanelProduct(const Matmul& m, Cpu& cpu) : m_(m), panel_bytes_(panel_bytes(m.weight_dtype, m.in_features)) {
#if OPENMOE_ISA_LEVEL >= 1
    if (m.in_features > 0 && m.weight_dtype == DType::int8) quantised_ = quantise_rows<Int8Group>(m, kInt8Zero, cpu);
    if (m.in_features > 0 && m.weight_dtype == DType::int4) quantised_ = quantise_rows<Int4Group>(m, 1, cpu);
#endif
#if OPENMOE_ISA_LEVEL == 3
    stride_ = spread_stride((m.in_features + 1) / 2);
    if (m.weight_dtype == DType::bf16) pairs_ = round_to_pairs(m, stride_, cpu);
#endif
    static_cast<void>(cpu);
  }

  // sums[r] = x[first_row + r] times the 32 columns of a panel. `next` is the panel this thread probably goes on with,
  // or -1.
  void operator()(const Item& item, int64_t panel, int64_t next, float* sums) const {
    if (m_.in_features == 0) return void(std::fill_n(sums, item.rows * kPanel, 0.0f));
    const std::byte* packed = item.weight + panel * panel_bytes_;
    const std::byte* follows = next < 0 ? nullptr : item.weight + next * panel_bytes_;
    if (is_quantised(m_.weight_dtype)) {
#if OPENMOE_ISA_LEVEL >= 1
      const QuantPanel p{.first_row = item.first_row, .num_rows = item.rows, .packed = packed};
      return m_.weight_dtype == DType::int8 ? run_quant_panel<Int8Group>(quantised_, p, sums)
                                            : run_quant_panel<Int4Group>(quantised_, p, sums);
#else
      return run_wide_panel(m_, item.first_row, item.rows, packed, sums);
#endif
    }
#if OPENMOE_ISA_LEVEL == 3
    if (m_.weight_dtype == DType::bf16) return run<Bf16PairWeights>(pairs_, stride_, item, packed, follows, sums);
#else
    if (m_.weight_dtype == DType::bf16) return run<Bf16Weights>(m_.x, m_.in_features, item, packed, follows, sums);
#endif
    run<F32Weights>(m_.x, m_.in_features, item, packed, follows, sums);
  }

 private:
  template <class W>
  void run(const typename W::X* x, int64_t stride, const Item& item, const std::byte* packed, const std::byte* next,
           float* sums) const {
    run_panel<W>({.x = x + item.first_row * stride,
                  .x_stride = stride,
                  .rows = item.rows,
                  .word = reinterpret_cast<const uint32_t*>(packed),
                  .num_k = m_.in_features,
                  .sums = sums,
                  .next = next});
  }

  const Matmul m_;
  const size_t panel_bytes_;
#if OPENMOE_ISA_LEVEL >= 1
  QuantRows quantised_{};
#endif
#if OPENMOE_ISA_LEVEL == 3
  const uint32_t* pairs_ = nullptr;
  int64_t stride_;
#endif
};

// Groups without rows must be left out.
inline void matmul(const Matmul& m, std::vector<RowGroup> groups, Cpu& cpu) {
  const PanelProduct product(m, cpu);
  const int64_t panels = num_panels(m.out_features);
  for_items(groups, panels, panel_bytes(m.weight_dtype, m.in_features), cpu, [&](const Item& item, int thread) {
    // Not straight into `out`: rows a multiple of 4 KiB apart would push each other out of L1.
    float* sums = cpu.scratch<float>(thread, item.rows * kPanel);
    for (int64_t panel = item.first; panel < item.end; ++panel) {
      product(item, panel, panel + 1 < panels ? panel + 1 : -1, sums);
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
  });
}

}  // namespace openmoe::OPENMOE_ISA
