#include "binding/device_binding.h"

#include "binding/arguments.h"
#include "binding/completions.h"
#include "program/op_registry.h"
#include "support/error.h"

namespace openmoe {

namespace {

// Sizes come from JavaScript: nothing here may overflow, a wrapped size would pass every later check.
size_t checked_matrix_bytes(const Device& device, const MatrixShape& m) {
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  if (real(m.count) * (real(m.out_features) + 256) * (real(m.in_features) + 64) * 4 > 1e15)
    fail_arg("the matrix is larger than any memory");
  return device.matrix_bytes(m);
}

Napi::Value describe_ops(const Napi::CallbackInfo& info) {
  static constexpr const char* kKinds[] = {"in",       "out",       "inout",   "matrix",
                                           "panel_in", "panel_out", "integer", "number"};
  const auto ops = all_ops();
  Napi::Array list = Napi::Array::New(info.Env(), ops.size());
  for (uint32_t i = 0; i < ops.size(); ++i) {
    Napi::Array fields = Napi::Array::New(info.Env(), ops[i].fields.size());
    for (uint32_t f = 0; f < ops[i].fields.size(); ++f) {
      Napi::Object field = Napi::Object::New(info.Env());
      field.Set("name", ops[i].fields[f].name);
      field.Set("kind", kKinds[static_cast<int>(ops[i].fields[f].kind)]);
      field.Set("spec", ops[i].fields[f].spec);
      fields.Set(f, field);
    }
    Napi::Object op = Napi::Object::New(info.Env());
    op.Set("name", std::string(ops[i].name));
    op.Set("fields", fields);
    list.Set(i, op);
  }
  return list;
}

Napi::Value describe_cpu(const Napi::CallbackInfo& info) {
  const CpuInfo cpu = cpu_info();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("modelName", cpu.model_name);
  result.Set("defaultThreads", cpu.default_threads);
  Napi::Array isas = Napi::Array::New(info.Env(), cpu.isas.size());
  for (uint32_t i = 0; i < cpu.isas.size(); ++i) isas.Set(i, cpu.isas[i]);
  result.Set("isas", isas);
  return result;
}

// openCpu(threads, isa)
Napi::Value open_cpu(const Napi::CallbackInfo& info) {
  CpuOptions options;
  options.num_threads = static_cast<int>(number(info[0], "threads", 1024));
  if (info[1].IsString()) options.isa = info[1].As<Napi::String>();
  return make_handle(info.Env(), std::make_shared<DeviceHandle>(info.Env(), make_cpu_device(options)));
}

Napi::Value device_memory(const Napi::CallbackInfo& info) {
  const DeviceMemory memory = from_handle<DeviceHandle>(info[0])->device()->memory();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("allocatedBytes", static_cast<double>(memory.allocated));
  result.Set("freeBytes", static_cast<double>(memory.free));
  result.Set("totalBytes", static_cast<double>(memory.total));
  return result;
}

Napi::Value panel_dtype(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<int>(from_handle<DeviceHandle>(info[0])->device()->panel_dtype()));
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  return make_handle(info.Env(), from_handle<DeviceHandle>(info[0])->device()->allocate(
                                     static_cast<size_t>(number(info[1], "bytes", 1e15))));
}

// freeBuffer(device, buffer): unmapping gigabytes takes time, so the device's thread does it.
Napi::Value free_buffer(const Napi::CallbackInfo& info) {
  auto buffer = std::move(slot_of<Buffer>(info[1]));
  slot_of<Buffer>(info[1]).reset();
  if (buffer)
    from_handle<DeviceHandle>(info[0])->submit_silently([buffer = std::move(buffer)]() mutable { buffer.reset(); });
  return info.Env().Undefined();
}

MatrixShape matrix_shape(const Napi::Object& o) {
  const auto field = [&](const char* name, double max) { return static_cast<int64_t>(number(o.Get(name), name, max)); };
  MatrixShape shape;
  shape.dtype = dtype(o.Get("dtype"));
  shape.layout = static_cast<MatrixLayout>(field("layout", kNumMatrixLayouts - 1));
  shape.count = field("count", 1 << 20);
  shape.out_features = field("outFeatures", 1 << 30), shape.in_features = field("inFeatures", 1 << 30);
  if (shape.dtype != DType::f32 && shape.dtype != DType::bf16 && !is_quantised(shape.dtype))
    fail_arg("a matrix holds f32, bf16, int8 or int4");
  if (shape.layout == MatrixLayout::gate_up && shape.out_features % 3)
    fail_arg("out_features is " + std::to_string(shape.out_features) + ", a gate_up matrix has three equal parts");
  return shape;
}

// matrixBytes(device, {dtype, layout, count, outFeatures, inFeatures})
Napi::Value matrix_bytes(const Napi::CallbackInfo& info) {
  const MatrixShape shape = matrix_shape(info[1].ToObject());
  const size_t bytes = checked_matrix_bytes(*from_handle<DeviceHandle>(info[0])->device(), shape);
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

// panelBytes(device, numRows, numExperts, features)
Napi::Value panel_bytes(const Napi::CallbackInfo& info) {
  const double rows = number(info[1], "num_rows", 1 << 30), experts = number(info[2], "num_experts", 1 << 20),
               features = number(info[3], "features", 1 << 30);
  if ((rows + 8 * experts) * (features + 64) * 4 > 1e15) fail_arg("the panel is larger than any memory");
  const size_t bytes = from_handle<DeviceHandle>(info[0])->device()->panel_bytes(
      static_cast<int64_t>(rows), static_cast<int64_t>(experts), static_cast<int64_t>(features));
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

// write(device, buffer, offset, array) copies the array now and writes it in order with the runs.
Napi::Value write(const Napi::CallbackInfo& info) {
  auto device = from_handle<DeviceHandle>(info[0]);
  auto buffer = from_handle<Buffer>(info[1]);
  const double offset = number(info[2], "offset");
  const Bytes from = bytes_of(info[3]);
  check_range(*buffer, offset, from.size);
  const auto* begin = static_cast<const std::byte*>(from.data);
  std::vector<std::byte> copy(begin, begin + from.size);
  return device->submit(info.Env(),
                        [buffer, offset, copy = std::move(copy)](Device& d, const std::atomic<bool>&) {
                          d.write(*buffer, static_cast<size_t>(offset), copy.data(), copy.size());
                        },
                        {info[0]});
}

// read(device, buffer, offset, array) fills the array.
Napi::Value read(const Napi::CallbackInfo& info) {
  auto device = from_handle<DeviceHandle>(info[0]);
  auto buffer = from_handle<Buffer>(info[1]);
  const double offset = number(info[2], "offset");
  const Bytes to = bytes_of(info[3]);
  check_range(*buffer, offset, to.size);
  return device->submit(info.Env(),
                        [buffer, offset, to](Device& d, const std::atomic<bool>&) {
                          d.read(*buffer, static_cast<size_t>(offset), to.data, to.size);
                        },
                        {info[0], info[3]});
}

MatrixTarget matrix_target(const Napi::Object& o) {
  MatrixTarget target;
  static_cast<MatrixShape&>(target) = matrix_shape(o);
  target.buffer = from_handle<Buffer>(o.Get("buffer"));
  const auto field = [&](const char* name) { return static_cast<int64_t>(number(o.Get(name), name, 1 << 30)); };
  target.index = field("index"), target.row_offset = field("rowOffset");
  return target;
}

void check_target(const Device& device, const MatrixTarget& t, int64_t rows, int64_t cols) {
  if (t.index >= t.count || t.row_offset + rows > t.out_features || cols != t.in_features)
    fail_arg("the source does not fit the matrix");
  if (t.buffer->bytes() < checked_matrix_bytes(device, t)) fail_arg("the buffer is too small for the matrix");
}

MatrixSource matrix_source(const Napi::Object& o) {
  MatrixSource source;
  source.path = o.Get("file").ToString();
  source.offset = static_cast<uint64_t>(number(o.Get("offset"), "offset"));
  source.dtype = dtype(o.Get("dtype"));
  const auto field = [&](const char* name) { return static_cast<int64_t>(number(o.Get(name), name, 1e12)); };
  source.rows = field("rows"), source.cols = field("cols");
  source.row_stride = field("rowStride"), source.col_stride = field("colStride");
  if (source.dtype == DType::i32 || source.dtype == DType::u8)
    fail_arg("weights in files are f32, bf16, f16, or panels of int8 or int4");
  return source;
}

RowsTarget rows_target(const Napi::Object& o) {
  RowsTarget target;
  target.buffer = from_handle<Buffer>(o.Get("buffer"));
  target.offset = static_cast<size_t>(number(o.Get("offset"), "offset"));
  target.dtype = dtype(o.Get("dtype"));
  if (target.dtype != DType::f32 && target.dtype != DType::bf16) fail_arg("rows are loaded as f32 or bf16");
  return target;
}

// {source, matrix} or {source, rows}
LoadPart load_part(const Device& device, const Napi::Object& o) {
  LoadPart part;
  part.source = matrix_source(o.Get("source").ToObject());
  const MatrixSource& s = part.source;
  if (o.Has("matrix")) {
    const MatrixTarget target = matrix_target(o.Get("matrix").ToObject());
    check_target(device, target, s.rows, s.cols);
    part.target = target;
    return part;
  }
  const RowsTarget target = rows_target(o.Get("rows").ToObject());
  if (is_quantised(s.dtype)) fail_arg("rows are loaded from f32, bf16 or f16");
  const double bytes = static_cast<double>(s.rows) * static_cast<double>(s.cols) * bytes_of(target.dtype);
  if (bytes > 1e15) fail_arg("the tensor is larger than any memory");
  check_range(*target.buffer, static_cast<double>(target.offset), static_cast<size_t>(bytes));
  part.target = target;
  return part;
}

// load(device, parts)
Napi::Value load(const Napi::CallbackInfo& info) {
  auto device = from_handle<DeviceHandle>(info[0]);
  const Napi::Array list = array_of(info[1], "parts");
  std::vector<LoadPart> parts;
  for (uint32_t i = 0; i < list.Length(); ++i) parts.push_back(load_part(*device->device(), list.Get(i).ToObject()));
  return device->submit(info.Env(),
                        [parts = std::move(parts)](Device& d, const std::atomic<bool>& stop) { d.load(parts, stop); },
                        {info[0]});
}

// packMatrix(device, Float32Array [rows, inFeatures], target)
Napi::Value pack_matrix(const Napi::CallbackInfo& info) {
  auto device = from_handle<DeviceHandle>(info[0]);
  const MatrixTarget target = matrix_target(info[2].ToObject());
  const Bytes from = bytes_of(info[1]);  // after the getters of the target, which could detach it
  check_target(*device->device(), target, target.out_features, target.in_features);
  const double need = static_cast<double>(target.count) * target.out_features * target.in_features * sizeof(float);
  if (static_cast<double>(from.size) < need) fail_arg("the array is smaller than the matrix");
  return device->submit(
      info.Env(),
      [=](Device& d, const std::atomic<bool>&) { d.pack_matrix(static_cast<const float*>(from.data), target); },
      {info[0], info[1]});
}

Napi::Value close(const Napi::CallbackInfo& info) {
  return from_handle<DeviceHandle>(info[0])->close(info.Env(), info[0]);
}

}  // namespace

void init_device(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, auto body) {
    exports.Set(name, Napi::Function::New(env, guarded(body), name));
  };
  add("ops", describe_ops);
  add("cpuInfo", describe_cpu);
  add("openCpu", open_cpu);
  add("deviceMemory", device_memory);
  add("panelDtype", panel_dtype);
  add("closeDevice", close);
  add("allocate", allocate);
  add("freeBuffer", free_buffer);
  add("matrixBytes", matrix_bytes);
  add("panelBytes", panel_bytes);
  add("write", write);
  add("read", read);
  add("load", load);
  add("packMatrix", pack_matrix);
}

}  // namespace openmoe
