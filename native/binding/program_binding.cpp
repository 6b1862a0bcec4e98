#include "binding/program_binding.h"

#include <cstring>
#include <utility>
#include <vector>

#include "binding/arguments.h"
#include "binding/device_binding.h"
#include "program/program.h"

namespace openmoe {

namespace {

// What crosses the border is one block of bytes each way: the tensors in order of their index, each at a multiple of
// kBlockAlign. So a run reads two arguments and not dozens (lib/compiled_program.ts lays out the same blocks).
constexpr size_t kBlockAlign = 8;

struct Block {
  std::vector<std::pair<int32_t, size_t>> parts;  // tensor, offset in the block
  size_t bytes = 0;

  void add(int32_t tensor, size_t size) {
    parts.emplace_back(tensor, bytes);
    bytes += (size + kBlockAlign - 1) / kBlockAlign * kBlockAlign;
  }
};

struct Recording {
  std::unique_ptr<Program> program;
  Block constants, inputs, results;
  std::vector<std::byte> constant_bytes;
};

}  // namespace

template <>
struct HandleType<Recording> {
  static constexpr napi_type_tag tag = {0x6f70656e6d6f6503, 0x70726f6772616d};
  static constexpr const char* name = "program";
};

namespace {

// How a tensor is used besides by ops, as lib/program.ts says it.
enum Use { kInput = 1, kResult = 2 };

std::vector<std::string> strings(const Napi::Value& value) {
  const Napi::Array list = array_of(value, "labels");
  std::vector<std::string> result;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value text = list.Get(i);
    if (!text.IsString()) fail_arg("labels must be strings");
    result.push_back(text.As<Napi::String>());
  }
  return result;
}

// program(device, tensors, code, labels): tensors is a flat array of [buffer|null, offset, bytes, dtype, use,
// constant|null].
Napi::Value program(const Napi::CallbackInfo& info) {
  auto device = from_handle<DeviceHandle>(info[0]);
  const Napi::Array list = array_of(info[1], "tensors");
  auto made = std::make_shared<Recording>();
  std::vector<ProgramTensor> tensors;  // grown entry by entry: the length of a sparse array means nothing
  std::vector<Napi::Value> constants;
  for (uint32_t i = 0; i + 5 < list.Length(); i += 6) {
    ProgramTensor t;
    const Napi::Value buffer = list.Get(i), constant = list.Get(i + 5);
    if (!buffer.IsNull()) t.buffer = from_handle<Buffer>(buffer);
    t.offset = static_cast<size_t>(number(list.Get(i + 1), "offset"));
    t.bytes = static_cast<size_t>(number(list.Get(i + 2), "bytes", 1e15));
    t.dtype = dtype(list.Get(i + 3));
    const int use = static_cast<int>(number(list.Get(i + 4), "use", 3));
    if (t.buffer) check_range(*t.buffer, static_cast<double>(t.offset), t.bytes);
    t.keep = use || !constant.IsNull();
    if (t.buffer && t.keep && use != kResult) fail_arg("a persistent tensor is no input of a program: write() it");
    const auto index = static_cast<int32_t>(tensors.size());
    if (!constant.IsNull()) constants.push_back(constant), made->constants.add(index, t.bytes);
    if (use & kInput) made->inputs.add(index, t.bytes);
    if (use & kResult) made->results.add(index, t.bytes);
    tensors.push_back(std::move(t));
  }
  const std::vector<std::string> labels = strings(info[3]);
  // Addresses last: the lists may have getters, and those could detach an array.
  const Bytes code = bytes_of(info[2]);
  std::vector<double> values(code.size / sizeof(double));
  if (!values.empty()) std::memcpy(values.data(), code.data, values.size() * sizeof(double));
  for (size_t i = 0; i < constants.size(); ++i)
    if (bytes_of(constants[i]).size != tensors[made->constants.parts[i].first].bytes)
      fail_arg("a constant is not as large as its tensor");
  made->constant_bytes.resize(made->constants.bytes);
  for (size_t i = 0; i < constants.size(); ++i) {
    const Bytes from = bytes_of(constants[i]);
    if (from.size) std::memcpy(made->constant_bytes.data() + made->constants.parts[i].second, from.data, from.size);
  }
  made->program = make_program(*device->device(), std::move(tensors), values, labels);
  return make_handle(info.Env(), std::move(made));
}

// freeProgram(program): a program holds on to its weights, so it must not wait for the garbage collector.
Napi::Value free_program(const Napi::CallbackInfo& info) {
  slot_of<Recording>(info[0]).reset();
  return info.Env().Undefined();
}

Napi::Value program_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(from_handle<Recording>(info[0])->program->arena_bytes));
}

std::byte* block_of(const Napi::Value& value, const Block& block, const char* what) {
  const bool is_buffer = value.IsArrayBuffer();
  const size_t bytes = is_buffer ? value.As<Napi::ArrayBuffer>().ByteLength() : 0;
  if (!is_buffer || bytes != block.bytes)
    fail_arg(std::string(what) + " must be an ArrayBuffer of " + std::to_string(block.bytes) + " bytes");
  return static_cast<std::byte*>(value.As<Napi::ArrayBuffer>().Data());
}

void write_block(Device& device, const Program& program, const Block& block, const std::byte* from) {
  for (const auto& [tensor, offset] : block.parts)
    device.write_arena(program, program.tensors[tensor].offset, from + offset, program.tensors[tensor].bytes);
}

Napi::Value times_to_js(Napi::Env env, const std::vector<double>& times) {
  Napi::Float64Array array = Napi::Float64Array::New(env, times.size());
  for (size_t i = 0; i < times.size(); ++i) array[i] = times[i];
  return array;
}

// run(device, program, inputs, results, flags): inputs are copied now, results are filled when the promise resolves.
// flags 1 = times, 2 = NaN check.
Napi::Value run(const Napi::CallbackInfo& info) {
  auto device = from_handle<DeviceHandle>(info[0]);
  auto recording = from_handle<Recording>(info[1]);
  const int flags = static_cast<int>(number(info[4], "flags", 3));
  const std::byte* from = block_of(info[2], recording->inputs, "inputs");
  std::byte* to = block_of(info[3], recording->results, "results");
  std::vector<std::byte> inputs(from, from + recording->inputs.bytes);
  auto times = flags & 1 ? std::make_shared<std::vector<double>>() : nullptr;
  auto work = [recording = std::move(recording), inputs = std::move(inputs), to, times, flags](
                  Device& d, const std::atomic<bool>& stop) {
    const Program& program = *recording->program;
    write_block(d, program, recording->constants, recording->constant_bytes.data());
    write_block(d, program, recording->inputs, inputs.data());
    d.run(program, {.stop = &stop, .microseconds = times.get(), .check_finite = (flags & 2) != 0});
    for (const auto& [tensor, offset] : recording->results.parts) {
      const ProgramTensor& t = program.tensors[tensor];
      t.buffer ? d.read(*t.buffer, t.offset, to + offset, t.bytes) : d.read_arena(t.offset, to + offset, t.bytes);
    }
  };
  std::function<Napi::Value(Napi::Env)> result;
  if (times) result = [times](Napi::Env env) { return times_to_js(env, *times); };
  return device->submit(info.Env(), std::move(work), {info[0], info[3]}, std::move(result));
}

}  // namespace

void init_program(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, auto body) {
    exports.Set(name, Napi::Function::New(env, guarded(body), name));
  };
  add("program", program);
  add("programBytes", program_bytes);
  add("freeProgram", free_program);
  add("run", run);
}

}  // namespace openmoe
