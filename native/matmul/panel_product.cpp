#include "matmul/panel_product.h"

#include <algorithm>

#include "matmul/float_matmul.h"
#include "matmul/quant_matmul.h"

namespace openmoe::OPENMOE_ISA {

namespace {

template <class W>
PanelRows<typename W::X> panel_rows(const Matmul& m, const Item& item, const typename W::X* x, int64_t stride,
                                    const std::byte* packed, float* sums) {
  return {.x = x + item.first_row * stride,
          .x_stride = stride,
          .rows = item.rows,
          .word = reinterpret_cast<const uint32_t*>(packed),
          .num_k = m.in_features,
          .sums = sums,
          .next = {}};
}

#if OPENMOE_ISA_LEVEL == 3
int64_t pairs_stride(int64_t in_features) { return spread_stride((in_features + 1) / 2); }
#endif

#if OPENMOE_ISA_LEVEL >= 1
template <class Group>
QuantRows quant_rows(const Matmul& m, uint32_t* memory) {
  return QuantRows(QuantShape::of<Group>(m.in_features), m.num_rows, memory);
}
#endif

}  // namespace

PanelProduct::PanelProduct(const Matmul& m, Cpu& cpu)
    : m_(m), panel_bytes_(openmoe::panel_bytes(m.weight_dtype, m.in_features)), each_(m.num_rows <= kFewRows) {
  copy_words_ = (m.num_rows * words_per_row() + 15) / 16 * 16;
  if (copy_words_ == 0) return;
  memory_ = cpu.shared_scratch<uint32_t>(copy_words_ * (each_ ? cpu.num_threads() : 1));
  if (each_) return;
  cpu.parallel_for(m.num_rows, rows_per_chunk(4 * m.in_features),
                   [&](int64_t begin, int64_t end, int) { round_rows(begin, end, memory_); });
}

void PanelProduct::prepare(int thread) const {
  if (each_ && copy_words_ > 0) round_rows(0, m_.num_rows, rows_of(thread));
}

int64_t PanelProduct::panels_at_once(int64_t num_rows) const {
  const bool in_turn = m_.weight_dtype == DType::bf16 && num_rows <= kDirectTileRows;
  return in_turn ? kPanelsInTurn : 1;
}

void PanelProduct::operator()(const Item& item, int64_t first, int64_t end, int64_t limit, float* sums,
                              int thread) const {
  if constexpr (kPanelsInTurn > 1)
    if (m_.in_features > 0 && end - first > 1 && panels_at_once(item.rows) > 1) {
      const std::byte* packed = item.weight + first * panel_bytes_;
      return run_in_turn<Bf16Weights>(panel_rows<Bf16Weights>(m_, item, m_.x, m_.in_features, packed, sums),
                                      end - first);
    }
  for (int64_t panel = first; panel < end; ++panel, sums += item.rows * kPanel)
    run_one(item, panel, panel + 1 < limit ? panel + 1 : -1, sums, thread);
}

void PanelProduct::run_one(const Item& item, int64_t panel, int64_t next, float* sums,
                           [[maybe_unused]] int thread) const {
  if (m_.in_features == 0) return void(std::fill_n(sums, item.rows * kPanel, 0.0f));
  const std::byte* packed = item.weight + panel * panel_bytes_;
  const std::byte* follows = next < 0 ? nullptr : item.weight + next * panel_bytes_;
  if (is_quantised(m_.weight_dtype)) {
#if OPENMOE_ISA_LEVEL >= 1
    const QuantPanel p{.first_row = item.first_row, .num_rows = item.rows, .packed = packed};
    return m_.weight_dtype == DType::int8
               ? run_quant_panel<Int8Group>(quant_rows<Int8Group>(m_, rows_of(thread)), p, sums)
               : run_quant_panel<Int4Group>(quant_rows<Int4Group>(m_, rows_of(thread)), p, sums);
#else
    return run_wide_panel(m_, item.first_row, item.rows, packed, sums);
#endif
  }
  if (m_.weight_dtype == DType::f32)
    return run_panel<F32Weights>(panel_rows<F32Weights>(m_, item, m_.x, m_.in_features, packed, sums), follows);
#if OPENMOE_ISA_LEVEL == 3
  const uint32_t* x = rows_of(thread);
  const int64_t stride = pairs_stride(m_.in_features);
  run_panel<Bf16PairWeights>(panel_rows<Bf16PairWeights>(m_, item, x, stride, packed, sums), follows);
#else
  run_panel<Bf16Weights>(panel_rows<Bf16Weights>(m_, item, m_.x, m_.in_features, packed, sums), follows);
#endif
}

int64_t PanelProduct::words_per_row() const {
  if (m_.in_features == 0) return 0;
#if OPENMOE_ISA_LEVEL == 3
  if (m_.weight_dtype == DType::bf16) return pairs_stride(m_.in_features);
#endif
#if OPENMOE_ISA_LEVEL >= 1
  if (m_.weight_dtype == DType::int8) return QuantShape::of<Int8Group>(m_.in_features).words();
  if (m_.weight_dtype == DType::int4) return QuantShape::of<Int4Group>(m_.in_features).words();
#endif
  return 0;
}

void PanelProduct::round_rows(int64_t begin, int64_t end, [[maybe_unused]] uint32_t* memory) const {
  for (int64_t r = begin; r < end; ++r) {
    [[maybe_unused]] const float* x = m_.x + r * m_.in_features;
#if OPENMOE_ISA_LEVEL == 3
    if (m_.weight_dtype == DType::bf16) round_to_pairs(x, m_.in_features, memory + r * pairs_stride(m_.in_features));
#endif
#if OPENMOE_ISA_LEVEL >= 1
    if (m_.weight_dtype == DType::int8)
      quantise_row<Int8Group>(x, m_.in_features, kInt8Zero, r, quant_rows<Int8Group>(m_, memory));
    if (m_.weight_dtype == DType::int4)
      quantise_row<Int4Group>(x, m_.in_features, 1, r, quant_rows<Int4Group>(m_, memory));
#endif
  }
}

}  // namespace openmoe::OPENMOE_ISA
