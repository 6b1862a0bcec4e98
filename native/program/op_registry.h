#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "program/op.h"

namespace openmoe {

class Cpu;
using CpuKernel = void (*)(const void* args, Cpu& cpu);

// Instruction sets of the CPU backend, worst first. Every kernel source is compiled once for each (CMakeLists.txt).
enum class Isa : uint8_t { portable, avx2, avx512, avx512_bf16 };
inline constexpr int kNumIsas = 4;
inline constexpr std::string_view kIsaNames[] = {"portable", "avx2", "avx512", "avx512_bf16"};

struct OpContract {
  std::string_view name;
  std::span<const Field> fields;
  size_t size;
  CpuKernel cpu[kNumIsas];  // null where this build has no such instruction set
};

std::span<const OpContract> all_ops();

// A tensor field's spec, parsed: the dtypes allowed and the number of elements as a function of the integer fields.
struct TensorSpec {
  uint32_t dtypes = 0;  // bit mask over DType
  bool optional = false;
  MatrixLayout layout = MatrixLayout::rows;  // of a matrix
  std::vector<std::string> dims;
};
TensorSpec parse_spec(const Field& field);

// Values of the dims for the integer fields in `args`. Throws INVALID_ARG for a negative or overflowing size.
std::vector<int64_t> eval_dims(const OpContract& op, const TensorSpec& spec, const std::byte* args);

}  // namespace openmoe
