#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace openmoe {

// Order is shared with lib/tensor.ts.
enum class DType : uint8_t { f32, bf16, i32, u8, f16 };

inline constexpr std::string_view kDTypeNames[] = {"f32", "bf16", "i32", "u8", "f16"};
inline constexpr size_t kDTypeBytes[] = {4, 2, 4, 1, 2};
inline constexpr int kNumDTypes = 5;

// How the rows of a packed matrix are meant: `gate_up` is a | b | up of a gated activation, in thirds, which a backend
// may interleave so that the three of one feature meet in one thread. Order is shared with lib/tensor.ts.
enum class MatrixLayout : uint8_t { rows, gate_up };
inline constexpr int kNumMatrixLayouts = 2;

// What a packed matrix is: a stack of `count` matrices of [out_features, in_features].
struct MatrixShape {
  DType dtype;
  MatrixLayout layout;
  int64_t count, out_features, in_features;
};

constexpr std::string_view name_of(DType t) { return kDTypeNames[static_cast<int>(t)]; }
constexpr size_t bytes_of(DType t) { return kDTypeBytes[static_cast<int>(t)]; }

}  // namespace openmoe
