// Weights from a file, or from the host, into the layouts the CPU kernels read: converted and packed while they stream.
#pragma once

#include <atomic>
#include <cstddef>
#include <span>

#include "device/cpu.h"
#include "device/device.h"

namespace openmoe {

// Into panels (matmul/panel.h) and row-major tensors in host memory, all of them as one work. Every thread preads and
// packs its own share, at most with a buffer of half a MiB. Parts may share a panel, not a lane of it.
void load_weights(Cpu& cpu, std::span<const LoadPart> parts, const std::atomic<bool>& stop);

// Into a row-major [rows, cols] block of `dtype`, f32 or bf16, in host memory.
void load_rows(Cpu& cpu, const MatrixSource& source, void* to, DType dtype, const std::atomic<bool>& stop);

// From a row-major f32 [count, out_features, in_features] matrix into panels.
void pack_matrix(Cpu& cpu, const float* from, const MatrixTarget& target);

}  // namespace openmoe
