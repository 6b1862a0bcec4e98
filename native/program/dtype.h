#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace openmoe {

// Order is shared with lib/tensor.ts.
enum class DType : uint8_t { f32, bf16, i32, u8, f16, int8, int4 };

// int8 and int4 are packed matrices only, groups of numbers with a scale: a single number of them has no bytes.
inline constexpr std::string_view kDTypeNames[] = {"f32", "bf16", "i32", "u8", "f16", "int8", "int4"};
inline constexpr size_t kDTypeBytes[] = {4, 2, 4, 1, 2, 0, 0};
inline constexpr int kNumDTypes = 7;

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
constexpr bool is_quantised(DType t) { return t == DType::int8 || t == DType::int4; }
constexpr size_t bytes_of(DType t) { return kDTypeBytes[static_cast<int>(t)]; }

}  // namespace openmoe
