// A few neighbouring numbers of a row of global memory at once: one 16-byte access where the row's length keeps rows
// aligned, else one number at a time. Numbers past the end of the row read as zero and are not written.
#pragma once

#include "gpu/gpu.h"

namespace openmoe::gpu {

GPU_DEVICE float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// x[j] = row[col + j], 4 of them; col is a multiple of 4.
GPU_DEVICE void load_row4(float (&x)[4], const float* row, int col, int length) {
  if (length % 4 == 0 && col < length) {
    const Vec16 v = load(reinterpret_cast<const Vec16*>(row + col));
    GPU_UNROLL for (int j = 0; j < 4; ++j) x[j] = float_of(v.word[j]);
  } else {
    GPU_UNROLL for (int j = 0; j < 4; ++j) x[j] = col + j < length ? load(row + col + j) : 0.0f;
  }
}

GPU_DEVICE void store_row4(float* row, int col, int length, const float (&x)[4]) {
  if (length % 4 == 0 && col < length) {
    Vec16 v;
    GPU_UNROLL for (int j = 0; j < 4; ++j) v.word[j] = __builtin_bit_cast(uint32_t, x[j]);
    store(reinterpret_cast<Vec16*>(row + col), v);
  } else {
    GPU_UNROLL for (int j = 0; j < 4; ++j) if (col + j < length) store(row + col + j, x[j]);
  }
}

}  // namespace openmoe::gpu
