#include "program/op_registry.h"

#include <cstdlib>
#include <cstring>

#include "ops/op_list.h"
#include "support/error.h"

namespace openmoe {

// Kernels of one instruction set live in a namespace of that name.
#define DECLARE_KERNEL(op, Contract) void op(const Contract& args, Cpu& cpu);
namespace portable {
OPENMOE_OPS(DECLARE_KERNEL)
}
#if defined(OPENMOE_X86_KERNELS)
namespace avx2 {
OPENMOE_OPS(DECLARE_KERNEL)
}
namespace avx512 {
OPENMOE_OPS(DECLARE_KERNEL)
}
namespace avx512_bf16 {
OPENMOE_OPS(DECLARE_KERNEL)
}
#define KERNEL_X86(isa, op, Contract) \
  [](const void* args, Cpu& cpu) { isa::op(*static_cast<const Contract*>(args), cpu); }
#else
#define KERNEL_X86(isa, op, Contract) nullptr
#endif

namespace {

#define CONTRACT(op, Contract)                                                                     \
  OpContract{                                                                                      \
      #op,                                                                                         \
      k##Contract##Fields,                                                                         \
      sizeof(Contract),                                                                            \
      {[](const void* args, Cpu& cpu) { portable::op(*static_cast<const Contract*>(args), cpu); }, \
       KERNEL_X86(avx2, op, Contract), KERNEL_X86(avx512, op, Contract), KERNEL_X86(avx512_bf16, op, Contract)}},
const OpContract kOps[] = {OPENMOE_OPS(CONTRACT)};

int64_t integer_field(const OpContract& op, std::string_view name, const std::byte* args) {
  for (const Field& field : op.fields) {
    if (field.kind != FieldKind::integer || name != field.name) continue;
    int value;
    std::memcpy(&value, args + field.offset, sizeof value);
    return value;
  }
  throw Error("INTERNAL", std::string(op.name) + ": the contract names no integer '" + std::string(name) + "'");
}

// factor (('*' | '+') factor)*, evaluated left to right: enough for "num_experts+1" and "num_heads*head_dim".
int64_t eval_dim(const OpContract& op, std::string_view text, const std::byte* args) {
  int64_t value = 1;
  char pending = '*';
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("*+"), text.size());
    const std::string token(text.substr(0, end));
    const bool literal = token[0] >= '0' && token[0] <= '9';
    const int64_t factor = literal ? std::atoll(token.c_str()) : integer_field(op, token, args);
    if (factor < 0) fail_arg(std::string(op.name) + ": " + token + " is " + std::to_string(factor));
    const bool overflow =
        pending == '*' ? __builtin_mul_overflow(value, factor, &value) : __builtin_add_overflow(value, factor, &value);
    if (overflow) fail_arg(std::string(op.name) + ": the sizes overflow");
    if (end == text.size()) break;
    pending = text[end];
    text.remove_prefix(end + 1);
  }
  return value;
}

}  // namespace

std::span<const OpContract> all_ops() { return kOps; }

TensorSpec parse_spec(const Field& field) {
  TensorSpec spec;
  std::string_view text = field.spec;
  if (text.ends_with('?')) spec.optional = true, text.remove_suffix(1);
  const size_t open = text.find('[');
  std::string_view types = text.substr(0, open);
  if (types == "gate_up") spec.layout = MatrixLayout::gate_up;
  if (types == "matrix" || types == "gate_up") types = "f32|bf16|int8|int4";
  if (types == "panel") types = "f32|bf16";
  while (!types.empty()) {
    const size_t bar = std::min(types.find('|'), types.size());
    for (int i = 0; i < kNumDTypes; ++i)
      if (types.substr(0, bar) == kDTypeNames[i]) spec.dtypes |= 1u << i;
    types.remove_prefix(std::min(bar + 1, types.size()));
  }
  std::string_view dims = text.substr(open + 1, text.size() - open - 2);
  while (!dims.empty()) {
    const size_t comma = std::min(dims.find(','), dims.size());
    std::string_view dim = dims.substr(0, comma);
    while (dim.starts_with(' ')) dim.remove_prefix(1);
    spec.dims.emplace_back(dim);
    dims.remove_prefix(std::min(comma + 1, dims.size()));
  }
  return spec;
}

std::vector<int64_t> eval_dims(const OpContract& op, const TensorSpec& spec, const std::byte* args) {
  std::vector<int64_t> dims;
  for (const std::string& dim : spec.dims) dims.push_back(eval_dim(op, dim, args));
  return dims;
}

}  // namespace openmoe
