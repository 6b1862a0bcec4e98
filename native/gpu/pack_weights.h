// Writes rows of a matrix into its weight image (gpu/tile_image.h), on the device, at load.
#pragma once

#include <cstdint>

#include "program/dtype.h"

namespace openmoe::gpu {

class Stream;

struct PackWeights {
  const uint16_t* from;  // bf16 [rows, cols] on the device, row after row
  void* image;           // of the whole stack; what is not written stays as it is
  MatrixLayout layout;
  int64_t out_features, in_features;      // of one matrix of the stack
  int64_t index, row_offset, col_offset;  // where from[0, 0] belongs; col_offset is a multiple of 8
  int64_t rows, cols;
};

void pack_weights(const PackWeights& args, Stream& stream);

}  // namespace openmoe::gpu
