// The packed weight layout of the CPU backend, the same for every instruction set: panels of 32 output features, so
// that a kernel reads one contiguous stream whatever the batch, and each output is one chain of fused multiply-adds
// over in_features in order. That chain does not depend on batch size or threads: it is what makes results bitwise
// equal for both.
//
//   f32   [count][out/32][in   ][32]
//   bf16  [count][out/32][in/2 ][32][2]   neighbours in k lie side by side: one 32-bit lane is widened by a shift (even
//                                         k) or a mask (odd k), and is the operand of a bf16 pair dot product as it is
//   int8  [count][out/32][in/128]{ scales u16 [32], words u32 [32][32] }    8.125 bits a weight
//   int4  [count][out/32][in/32 ]{ scales u16 [32], words u32 [4 ][32] }    4.5   bits a weight
//
// Of a quantised matrix, neighbours in k of one output feature share a scale, 128 of int8 and 32 of int4: a group. A
// word of int8 holds four neighbours in k, from its lowest byte up; a word of int4 holds eight, the first four in the
// low nibbles of its bytes and the others in the high ones. So one mask or shift makes four unsigned bytes, which an
// integer dot product takes as they are. The weights are
//
//   int8  scale * (q - 128), q in [1, 255]; the scale is the u16 as bf16
//   int4  scale * (q - z), q and z in [0, 15]; z is the u16's lowest 4 bits, the upper 12 are the scale's exponent
//         and 4 bits of its mantissa (it has no sign)
//
// Features beyond out_features and what pads the last k are zero.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "program/dtype.h"

namespace openmoe {

inline constexpr int kPanel = 32;
inline constexpr int kMaxGroup = 128;  // numbers in k that share a scale
inline constexpr int kInt8Zero = 128;  // what is stored for a weight of zero

constexpr int64_t num_panels(int64_t out_features) { return (out_features + kPanel - 1) / kPanel; }
constexpr int64_t group_length(DType dtype) { return dtype == DType::int8 ? kMaxGroup : 32; }
constexpr int64_t num_groups(DType dtype, int64_t in_features) {
  return (in_features + group_length(dtype) - 1) / group_length(dtype);
}

// Words of a quantised group in one output feature, and bytes of one group of a panel.
constexpr int64_t group_words(DType dtype) { return group_length(dtype) * (dtype == DType::int8 ? 8 : 4) / 32; }
constexpr size_t group_bytes(DType dtype) {
  return kPanel * (sizeof(uint16_t) + group_words(dtype) * sizeof(uint32_t));
}

constexpr float int8_scale(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
constexpr float int4_scale(uint16_t bits) { return std::bit_cast<float>((bits & 0xfff0u) << 15); }
constexpr int int4_zero(uint16_t bits) { return bits & 15; }

// Bytes of one panel.
constexpr size_t panel_bytes(DType dtype, int64_t in_features) {
  if (is_quantised(dtype)) return num_groups(dtype, in_features) * group_bytes(dtype);
  const int64_t padded = dtype == DType::bf16 ? (in_features + 1) / 2 * 2 : in_features;
  return static_cast<size_t>(padded) * kPanel * bytes_of(dtype);
}

constexpr size_t panel_matrix_bytes(DType dtype, int64_t count, int64_t out_features, int64_t in_features) {
  return static_cast<size_t>(count) * num_panels(out_features) * panel_bytes(dtype, in_features);
}

// Whether the panels of a | b | up lie side by side for the same features, a gated product being one stream then. Where
// a part does not end with a panel, rows are packed in their order.
constexpr bool is_interleaved(MatrixLayout layout, int64_t out_features) {
  return layout == MatrixLayout::gate_up && out_features % (3 * kPanel) == 0;
}

// Where a panel of rows [32 * panel, ...) of a matrix lies among the matrix's panels.
constexpr int64_t panel_place(const MatrixShape& m, int64_t panel) {
  if (!is_interleaved(m.layout, m.out_features)) return panel;
  const int64_t part = m.out_features / (3 * kPanel);
  return panel % part * 3 + panel / part;
}

}  // namespace openmoe
