// A Device over the small runtime interface of a GPU module (gpu/runtime.h): the same code for CUDA and for the
// emulator.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>

#include "device/cpu.h"
#include "device/gpu.h"
#include "gpu/tile_image.h"
#include "program/program.h"
#include "support/bf16.h"
#include "support/error.h"
#include "support/weight_loader.h"

namespace openmoe {

gpu::Runtime* open_gpu(const GpuOptions& options);  // device/gpu_module.cpp

namespace {

constexpr int64_t kStaged = int64_t{1} << 24;  // weights on their way to the device, 32 MiB
constexpr int64_t kStagedInTests = int64_t{1} << 12;
constexpr int kLoadThreads = 8;  // more do not read faster

// What buffers share with their device: they may outlive it.
struct Gpu {
  std::string name;
  std::unique_ptr<gpu::Runtime> runtime;
  std::atomic<size_t> allocated{0};

  void expect(const gpu::Status& status) const {
    if (!status) return;
    if (std::strcmp(status.code, "DEVICE_LOST") == 0)
      throw Error("DEVICE_LOST", name + " was lost: " + status.message +
                                     ". What it held is gone; restart the process to use it again.");
    throw Error(status.code, name + ": " + status.message);
  }
};

class GpuBuffer : public Buffer {
 public:
  GpuBuffer(std::shared_ptr<Gpu> gpu, size_t bytes) : gpu_(std::move(gpu)), bytes_(bytes) {
    const gpu::Status status = gpu_->runtime->allocate(bytes, &data_);
    if (status.code && std::strcmp(status.code, "OUT_OF_MEMORY") == 0) fail_memory();
    gpu_->expect(status);
    gpu_->allocated += bytes;
    if (const gpu::Status filled = gpu_->runtime->fill(data_, 0, bytes)) {
      release();
      gpu_->expect(filled);
    }
  }
  ~GpuBuffer() override { release(); }
  GpuBuffer(const GpuBuffer&) = delete;
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void release() {
    gpu_->runtime->free(data_);
    gpu_->allocated -= bytes_;
  }
  [[noreturn]] void fail_memory() const {
    const auto gib = [](size_t n) { return static_cast<double>(n) / (1 << 30); };
    const gpu::DeviceInfo info = gpu_->runtime->info();
    char text[256];
    std::snprintf(text, sizeof text,
                  "%.2f GiB could not be allocated on %s: %.2f of its %.2f GiB are free, %.2f are this device's. Free "
                  "memory, load a smaller model, or pass { device: 'cpu' }.",
                  gib(bytes_), gpu_->name.c_str(), gib(info.free_bytes), gib(info.total_bytes), gib(gpu_->allocated));
    throw Error("OUT_OF_MEMORY", text);
  }

  std::shared_ptr<Gpu> gpu_;
  void* data_ = nullptr;
  size_t bytes_;
};

gpu::WeightImage image_of(const MatrixShape& m) {
  return gpu::weight_image(m.layout == MatrixLayout::gate_up ? gpu::WeightKind::gate_up : gpu::WeightKind::plain,
                           m.out_features, m.in_features);
}

class GpuDevice : public Device {
 public:
  explicit GpuDevice(const GpuOptions& options) : gpu_(std::make_shared<Gpu>()) {
    gpu_->name = options.module + ":" + std::to_string(options.index);
    gpu_->runtime.reset(open_gpu(options));
    staged_most_ = gpu_->runtime->is_for_tests() ? kStagedInTests : kStaged;
  }

  std::string name() const override { return gpu_->name; }
  bool supports(std::string_view op) const override {
#define OPENMOE_IS_OP(name, Contract) \
  if (op == #name) return true;
    OPENMOE_GPU_OPS(OPENMOE_IS_OP)
#undef OPENMOE_IS_OP
    return false;
  }

  std::shared_ptr<Buffer> allocate(size_t bytes) override { return std::make_shared<GpuBuffer>(gpu_, bytes); }
  void write(Buffer& to, size_t offset, const void* from, size_t bytes) override { copy_in(to, offset, from, bytes); }
  void read(const Buffer& from, size_t offset, void* to, size_t bytes) override { copy_out(from, offset, to, bytes); }
  DeviceMemory memory() const override {
    const gpu::DeviceInfo info = gpu_->runtime->info();
    return {gpu_->allocated, info.free_bytes, info.total_bytes};
  }

  size_t matrix_bytes(const MatrixShape& m) const override {
    if (m.dtype != DType::bf16)
      fail_arg(name() + " holds weights in bf16, not in " + std::string(name_of(m.dtype)) + ". Pass dtype 'bf16'.");
    return static_cast<size_t>(m.count * image_of(m).expert_bytes());
  }
  DType panel_dtype() const override { return DType::bf16; }
  size_t panel_bytes(int64_t num_rows, int64_t num_experts, int64_t features) const override {
    return static_cast<size_t>(gpu::panel_bytes(num_rows, num_experts, features));
  }

  void load(std::span<const LoadPart> parts, const std::atomic<bool>& stop) override {
    for (const LoadPart& part : parts) {
      if (const auto* matrix = std::get_if<MatrixTarget>(&part.target))
        load_matrix(part.source, *matrix, stop);
      else
        load_rows(part.source, std::get<RowsTarget>(part.target), stop);
    }
  }
  void pack_matrix(const float* from, const MatrixTarget& target) override {
    const int64_t cols = target.in_features, rows = std::max<int64_t>(staged_most_ / std::max<int64_t>(cols, 1), 1);
    for (int64_t index = 0; index < target.count; ++index)
      for (int64_t row = 0; row < target.out_features; row += rows) {
        const int64_t count = std::min(rows, target.out_features - row);
        const float* block = from + (index * target.out_features + row) * cols;
        std::transform(block, block + count * cols, staging(), [](float x) { return to_bf16(x).bits; });
        pack_staged(target, index, row, 0, count, cols);
      }
  }

  void run(const Program& program, const RunOptions& options) override {
    reserve(program.arena_bytes);
    gpu::Runtime& runtime = *gpu_->runtime;
    if (runtime.is_for_tests()) poison(program);
    gpu_->expect(runtime.begin_run(static_cast<int>(program.records.size()), options.microseconds));
    for (size_t i = 0; i < program.records.size(); ++i) {
      if (options.stop && options.stop->load(std::memory_order_relaxed)) {
        gpu_->expect(runtime.synchronize());
        throw Error("ABORTED", "The run was stopped.");
      }
      launch(program, static_cast<int>(i), options.check_finite);
    }
    int faulty = -1;
    const gpu::Status status = runtime.end_run(&faulty, options.microseconds);
    gpu_->expect(status);
    if (faulty >= 0)
      fail_arg(program.records[faulty].label + ": an expert, row or offset is out of range. " + name() +
               " cannot tell which; run it on 'cpu' to see.");
  }
  void read_arena(size_t offset, void* to, size_t bytes) override { copy_out(*arena_, offset, to, bytes); }
  void write_arena(const Program& program, size_t offset, const void* from, size_t bytes) override {
    reserve(program.arena_bytes);
    copy_in(*arena_, offset, from, bytes);
  }

 private:
  // Read and rounded to bf16 on the host, packed on the device: a block of whole rows where a row is a run in the file,
  // of whole columns where a column is.
  void load_matrix(const MatrixSource& source, const MatrixTarget& target, const std::atomic<bool>& stop) {
    const bool by_rows = source.col_stride <= source.row_stride || source.rows == 1;
    const auto whole_blocks = [](int64_t n) { return std::max<int64_t>(n / 64 * 64, 64); };
    const int64_t cols =
        by_rows ? std::min(source.cols, staged_most_) : whole_blocks(staged_most_ / std::max<int64_t>(source.rows, 1));
    const int64_t rows = std::max<int64_t>(staged_most_ / std::max<int64_t>(cols, 1), 1);
    for (int64_t row = 0; row < source.rows; row += rows)
      for (int64_t col = 0; col < source.cols; col += cols) {
        MatrixSource block = source;
        block.offset +=
            static_cast<uint64_t>(row * source.row_stride + col * source.col_stride) * bytes_of(source.dtype);
        block.rows = std::min(rows, source.rows - row), block.cols = std::min(cols, source.cols - col);
        openmoe::load_rows(cpu(), block, staging(), DType::bf16, stop);
        pack_staged(target, target.index, target.row_offset + row, col, block.rows, block.cols);
      }
  }
  void load_rows(const MatrixSource& source, const RowsTarget& to, const std::atomic<bool>& stop) {
    const int64_t rows = std::max<int64_t>(staged_most_ / 2 / std::max<int64_t>(source.cols, 1), 1);
    std::vector<std::byte> host(static_cast<size_t>(std::min(rows, source.rows) * source.cols) * bytes_of(to.dtype));
    for (int64_t row = 0; row < source.rows; row += rows) {
      MatrixSource block = source;
      block.offset += static_cast<uint64_t>(row * source.row_stride) * bytes_of(source.dtype);
      block.rows = std::min(rows, source.rows - row);
      openmoe::load_rows(cpu(), block, host.data(), to.dtype, stop);
      const size_t row_bytes = static_cast<size_t>(source.cols) * bytes_of(to.dtype);
      copy_in(*to.buffer, to.offset + row * row_bytes, host.data(), block.rows * row_bytes);
    }
  }
  void copy_in(const Buffer& to, size_t offset, const void* from, size_t bytes) {
    if (bytes > 0) gpu_->expect(gpu_->runtime->copy_in(static_cast<std::byte*>(to.data()) + offset, from, bytes));
  }
  void copy_out(const Buffer& from, size_t offset, void* to, size_t bytes) {
    if (bytes > 0) gpu_->expect(gpu_->runtime->copy_out(to, static_cast<std::byte*>(from.data()) + offset, bytes));
  }

  void reserve(size_t bytes) {
    if (arena_ && arena_->bytes() >= bytes) return;
    arena_.reset();
    arena_ = allocate(std::max<size_t>(bytes, 1));
  }

  // So that nothing passes a test because of what an earlier run left behind.
  void poison(const Program& program) {
    for (const ProgramTensor& t : program.tensors)
      if (!t.buffer && !t.keep && t.bytes > 0)
        gpu_->expect(gpu_->runtime->fill(static_cast<std::byte*>(arena_->data()) + t.offset, 0xff, t.bytes));
  }

  void launch(const Program& program, int index, bool check) {
    const Record& record = program.records[index];
    alignas(16) std::byte args[512];
    resolve_args(program, record, static_cast<std::byte*>(arena_->data()), args);
    const gpu::Status status = gpu_->runtime->launch(record.op->name, args, index);
    if (status && std::strcmp(status.code, "DEVICE_LOST") != 0)
      throw Error(status.code, record.label + ": " + status.message);
    gpu_->expect(status);
    if (check) check_finite(record, args);
  }

  // Plain f32 outputs; the rows between the experts of a panel may hold anything.
  void check_finite(const Record& record, const std::byte* args) {
    for (const Field& field : record.op->fields) {
      if (field.kind != FieldKind::out) continue;
      Out out;
      std::memcpy(&out, args + field.offset, sizeof out);
      if (!out || out.dtype != DType::f32) continue;
      int64_t count = 1;
      for (int64_t d : eval_dims(*record.op, parse_spec(field), args)) count *= d;
      std::vector<float> values(count);
      if (count > 0) gpu_->expect(gpu_->runtime->copy_out(values.data(), out.data, count * sizeof(float)));
      const auto bad = std::find_if_not(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
      if (bad != values.end())
        throw Error("NON_FINITE", record.label + ": " + field.name + "[" + std::to_string(bad - values.begin()) +
                                      "] is " + std::to_string(*bad));
    }
  }

  Cpu& cpu() {
    if (!cpu_) cpu_ = std::make_unique<Cpu>(std::clamp<int>(std::thread::hardware_concurrency(), 1, kLoadThreads));
    return *cpu_;
  }

  uint16_t* staging() {
    staged_.resize(staged_most_);
    return staged_.data();
  }
  // The first rows * cols numbers of staging(), into the weight image.
  void pack_staged(const MatrixTarget& target, int64_t index, int64_t row, int64_t col, int64_t rows, int64_t cols) {
    const size_t bytes = static_cast<size_t>(rows * cols) * sizeof(uint16_t);
    if (bytes == 0) return;
    if (!staged_on_device_ || staged_on_device_->bytes() < bytes) staged_on_device_ = allocate(bytes);
    copy_in(*staged_on_device_, 0, staged_.data(), bytes);
    gpu_->expect(gpu_->runtime->pack({.from = static_cast<const uint16_t*>(staged_on_device_->data()),
                                      .image = target.buffer->data(),
                                      .layout = target.layout,
                                      .out_features = target.out_features,
                                      .in_features = target.in_features,
                                      .index = index,
                                      .row_offset = row,
                                      .col_offset = col,
                                      .rows = rows,
                                      .cols = cols}));
  }

  std::shared_ptr<Gpu> gpu_;
  std::shared_ptr<Buffer> arena_, staged_on_device_;
  int64_t staged_most_;
  std::vector<uint16_t> staged_;
  std::unique_ptr<Cpu> cpu_;
};

}  // namespace

std::unique_ptr<Device> make_gpu_device(const GpuOptions& options) { return std::make_unique<GpuDevice>(options); }

}  // namespace openmoe
