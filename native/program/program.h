// A recorded program: a flat list of op calls over tensors that are either persistent (weights, caches) or planned
// into the device's arena. Checked once when it is made; a run only fills in addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "program/op_registry.h"

namespace openmoe {

struct ProgramTensor {
  std::shared_ptr<Buffer> buffer;  // null: planned into the arena
  size_t offset = 0;               // in the buffer, or in the arena once planned
  size_t bytes = 0;
  DType dtype = DType::f32;
  bool keep = false;  // an input or a result: its bytes stay its own for the whole run
};

struct Record {
  const OpContract* op;
  std::string label;             // layers.5.moe.grouped_gemm: what errors, traces and timings speak of
  std::vector<std::byte> args;   // the contract's struct; tensor fields are filled in at each run
  std::vector<int32_t> tensors;  // one per field; -1 for a number or an absent optional tensor
};

struct Program {
  std::vector<ProgramTensor> tensors;
  std::vector<Record> records;
  size_t arena_bytes = 0;
};

// The flat form in which a recording crosses the binding. `code` holds one run per record: op index, label index, then
// one number per field of the contract (tensor index, -1 for an absent tensor, or the value).
std::unique_ptr<Program> make_program(const Device& device, std::vector<ProgramTensor> tensors,
                                      const std::vector<double>& code, const std::vector<std::string>& labels);

// Assigns arena offsets: two tensors share bytes only when no record uses both lifetimes (program/memory_plan.cpp).
void plan_memory(Program& program);

// Fills the tensor fields of a record. `args` has room for op->size bytes.
void resolve_args(const Program& program, const Record& record, std::byte* arena, std::byte* args);

}  // namespace openmoe
