// The packed weight layout of the CPU backend, the same for every instruction set: panels of 32 output features, so
// that a kernel reads one contiguous stream whatever the batch, and each output is one chain of fused multiply-adds
// over in_features in order. That chain does not depend on batch size or threads: it is what makes results bitwise
// equal for both.
//
//   f32   [count][out/32][in   ][32]
//   bf16  [count][out/32][in/2 ][32][2]   neighbours in k lie side by side: one 32-bit lane is widened by a shift (even
//                                         k) or a mask (odd k), and is the operand of a bf16 pair dot product as it is
//
// Features beyond out_features and an odd last k are zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "program/dtype.h"

namespace openmoe {

inline constexpr int kPanel = 32;

constexpr int64_t num_panels(int64_t out_features) { return (out_features + kPanel - 1) / kPanel; }

// Bytes of one panel.
constexpr size_t panel_bytes(DType dtype, int64_t in_features) {
  const int64_t padded = dtype == DType::bf16 ? (in_features + 1) / 2 * 2 : in_features;
  return static_cast<size_t>(padded) * kPanel * bytes_of(dtype);
}

constexpr size_t panel_matrix_bytes(DType dtype, int64_t count, int64_t out_features, int64_t in_features) {
  return static_cast<size_t>(count) * num_panels(out_features) * panel_bytes(dtype, in_features);
}

}  // namespace openmoe
