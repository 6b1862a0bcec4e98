#include "program/program.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "support/error.h"

namespace openmoe {

namespace {

int64_t product(const std::vector<int64_t>& dims, const Record& record) {
  int64_t total = 1;
  for (int64_t d : dims)
    if (__builtin_mul_overflow(total, d, &total)) fail_arg(record.label + ": the sizes overflow");
  // Far beyond any memory, and still without overflow once multiplied by bytes or rounded up to whole panels.
  if (total > int64_t{1} << 50) fail_arg(record.label + ": the sizes are larger than any memory");
  return total;
}

// Only what could corrupt memory: meaning is checked in lib/ops while recording.
void check_tensor(const Device& device, const Program& program, const Record& record, const Field& field, int index) {
  const TensorSpec spec = parse_spec(field);
  const std::string what = record.label + ": " + field.name;
  if (index < 0) {
    if (!spec.optional) fail_arg(what + " is missing");
    return;
  }
  const ProgramTensor& tensor = program.tensors[index];
  if (!(spec.dtypes >> static_cast<int>(tensor.dtype) & 1))
    fail_arg(what + " has dtype " + std::string(name_of(tensor.dtype)) + ", expected " + field.spec);
  const std::vector<int64_t> dims = eval_dims(*record.op, spec, record.args.data());
  size_t need;
  if (field.kind == FieldKind::matrix) {
    if (!tensor.buffer) fail_arg(what + " must be packed weights: make them with device.matrix()");
    product(dims, record);
    need = device.matrix_bytes({tensor.dtype, spec.layout, dims[0], dims[1], dims[2]});
  } else if (field.kind == FieldKind::panel_in || field.kind == FieldKind::panel_out) {
    if (tensor.dtype != device.panel_dtype())
      fail_arg(what + " has dtype " + std::string(name_of(tensor.dtype)) + ", panels of " + device.name() + " have " +
               std::string(name_of(device.panel_dtype())));
    product(dims, record);
    need = device.panel_bytes(dims[0], dims[1], dims[2]);
  } else {
    need = static_cast<size_t>(product(dims, record)) * bytes_of(tensor.dtype);
  }
  if (tensor.bytes < need)
    fail_arg(what + " has " + std::to_string(tensor.bytes) + " bytes, " + field.spec + " needs " +
             std::to_string(need));
}

void set_number(Record& record, const Field& field, double value) {
  if (field.kind == FieldKind::number) {
    const float number = static_cast<float>(value);
    std::memcpy(record.args.data() + field.offset, &number, sizeof number);
    return;
  }
  if (!(value >= std::numeric_limits<int>::min() && value <= std::numeric_limits<int>::max()) ||
      value != std::floor(value))
    fail_arg(record.label + ": " + field.name + " is no 32-bit integer");
  const int integer = static_cast<int>(value);
  std::memcpy(record.args.data() + field.offset, &integer, sizeof integer);
}

constexpr bool is_tensor(FieldKind kind) { return kind != FieldKind::integer && kind != FieldKind::number; }

}  // namespace

std::unique_ptr<Program> make_program(const Device& device, std::vector<ProgramTensor> tensors,
                                      const std::vector<double>& code, const std::vector<std::string>& labels) {
  auto program = std::make_unique<Program>();
  program->tensors = std::move(tensors);
  const auto ops = all_ops();
  const auto index_below = [](double value, size_t limit) { return value >= 0 && value < static_cast<double>(limit); };
  for (size_t at = 0; at < code.size();) {
    if (at + 2 > code.size() || !index_below(code[at], ops.size()) || !index_below(code[at + 1], labels.size()))
      fail_arg("program: malformed record");
    const OpContract& op = ops[static_cast<size_t>(code[at])];
    Record record{&op, labels[static_cast<size_t>(code[at + 1])], std::vector<std::byte>(op.size), {}};
    if (!device.supports(op.name))
      throw Error("UNSUPPORTED", record.label + ": " + device.name() + " has no kernel for " + std::string(op.name) +
                                     " yet. Run it on 'cpu'.");
    at += 2;
    if (at + op.fields.size() > code.size()) fail_arg(record.label + ": malformed record");
    for (size_t i = 0; i < op.fields.size(); ++i) {
      const double value = code[at + i];
      if (is_tensor(op.fields[i].kind)) {
        if (value != -1 && !index_below(value, program->tensors.size()))
          fail_arg(record.label + ": " + op.fields[i].name + " is no tensor of this program");
        record.tensors.push_back(static_cast<int32_t>(value));
      } else {
        set_number(record, op.fields[i], value);
        record.tensors.push_back(-1);
      }
    }
    for (size_t i = 0; i < op.fields.size(); ++i)
      if (is_tensor(op.fields[i].kind)) check_tensor(device, *program, record, op.fields[i], record.tensors[i]);
    at += op.fields.size();
    program->records.push_back(std::move(record));
  }
  plan_memory(*program);
  return program;
}

void resolve_args(const Program& program, const Record& record, std::byte* arena, std::byte* args) {
  std::memcpy(args, record.args.data(), record.args.size());
  for (size_t i = 0; i < record.tensors.size(); ++i) {
    const Field& field = record.op->fields[i];
    if (!is_tensor(field.kind)) continue;
    In tensor{nullptr, DType::f32};
    if (record.tensors[i] >= 0) {
      const ProgramTensor& t = program.tensors[record.tensors[i]];
      tensor.data = (t.buffer ? static_cast<std::byte*>(t.buffer->data()) : arena) + t.offset;
      tensor.dtype = t.dtype;
    }
    std::memcpy(args + field.offset, &tensor,
                sizeof tensor);  // In, Out, InOut, Matrix, PanelIn and PanelOut share one layout
  }
}

}  // namespace openmoe
