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

constexpr std::string_view name_of(DType t) { return kDTypeNames[static_cast<int>(t)]; }
constexpr size_t bytes_of(DType t) { return kDTypeBytes[static_cast<int>(t)]; }

}  // namespace openmoe
