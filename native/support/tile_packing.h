// Numbers as a file holds them -> rows, or the panels the CPU kernels read (matmul/panel.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/device.h"
#include "program/dtype.h"

namespace openmoe {

// Numbers in memory, as they are in the file. Strides are in numbers.
struct Tile {
  const std::byte* data;
  DType dtype;
  int64_t rows, cols, row_stride, col_stride;
  const std::byte* at(int64_t r, int64_t k) const { return data + (r * row_stride + k * col_stride) * bytes_of(dtype); }
};

// Packs a tile whose first number belongs at [row, col] of matrix `index` of the target; col is a multiple of a group.
void pack_tile(const Tile& tile, const MatrixTarget& target, int64_t index, int64_t row, int64_t col);

// Converts a tile to rows of `dtype`, f32 or bf16, that begin `row_bytes` apart.
void copy_tile(const Tile& tile, DType dtype, std::byte* to, int64_t row_bytes);

// Lanes [from, from + count) of a quantised panel become lanes [to, to + count) of another.
struct LaneCopy {
  int from, count, to;
};
void copy_lanes(DType dtype, int64_t groups, const std::byte* from, const LaneCopy& copy, std::byte* to);

}  // namespace openmoe
