// Weights from a file, or from the host, into the layouts the CPU kernels read: converted and packed while they stream.
#pragma once

#include <atomic>
#include <cstddef>

#include "device/cpu.h"
#include "device/device.h"

namespace openmoe {

// Into panels (support/panel.h). Every thread preads and packs its own share through a working buffer of a few MiB.
void load_matrix(Cpu& cpu, const MatrixSource& source, const MatrixTarget& target, const std::atomic<bool>& stop);

// Into a row-major [rows, cols] tensor of `dtype`.
void load_rows(Cpu& cpu, const MatrixSource& source, void* to, DType dtype, const std::atomic<bool>& stop);

// From a row-major f32 [count, out_features, in_features] matrix into panels.
void pack_matrix(Cpu& cpu, const float* from, const MatrixTarget& target);

}  // namespace openmoe
