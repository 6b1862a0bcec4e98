// Weights into the groups of a quantised panel (matmul/panel.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "matmul/panel.h"

namespace openmoe {

// Quantises a group of up to 32 output features: block[k][column], columns [0, columns), into lanes [lane, lane +
// columns) of `group`; other lanes are left as they are. A group with NaN or infinity gets scale NaN. int8 rounds to
// nearest; int4 tries a few scales and takes the one with the least squared error.
void quantise_group(DType dtype, const float (*block)[kPanel], int columns, std::byte* group, int lane);

}  // namespace openmoe
