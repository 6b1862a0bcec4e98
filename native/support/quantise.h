// Weights into the groups of a quantised panel (support/panel.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "support/panel.h"

namespace openmoe {

// 32 neighbours in k (rows) of up to 32 output features (columns).
using GroupBlock = float[kGroup][kPanel];

// Quantises columns [0, columns) into lanes [lane, lane + columns) of `group`; other lanes are left as they are. A
// group with NaN or infinity gets scale NaN. int8 rounds to nearest; int4 tries a few scales and takes the one with the
// least squared error.
void quantise_group(DType dtype, const GroupBlock& block, int columns, std::byte* group, int lane);

}  // namespace openmoe
