// The interface a backend implements: memory, one program run, and packing weights into its own layout.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "program/dtype.h"

namespace openmoe {

struct Program;

// Memory of one device. Shared by handles, programs and runs in flight, so nothing is freed under a kernel.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() const = 0;  // an address of the device; only CPU buffers may be read on the host
  virtual size_t bytes() const = 0;
};

// A strided [rows, cols] view of a tensor in a file: out_features x in_features, strides in elements (spec 6.1: experts
// are stored [in, out], torch views may be permuted; both are only strides).
struct MatrixSource {
  std::string path;
  uint64_t offset;  // bytes from the start of the file to element [0, 0]
  DType dtype;      // f32, bf16 or f16
  int64_t rows, cols, row_stride, col_stride;
};

// Where it goes: rows [row_offset, row_offset + source.rows) of matrix `index` in a stack of `count` matrices of
// [out_features, in_features].
struct MatrixTarget : MatrixShape {
  std::shared_ptr<Buffer> buffer;
  int64_t index, row_offset;
};

// Or a row-major [rows, cols] tensor of f32 or bf16 (embedding, norms).
struct RowsTarget {
  std::shared_ptr<Buffer> buffer;
  size_t offset;
  DType dtype;
};

struct LoadPart {
  MatrixSource source;
  std::variant<MatrixTarget, RowsTarget> target;
};

struct DeviceMemory {
  size_t allocated = 0;        // by this device
  size_t free = 0, total = 0;  // of the whole GPU, whoever uses it; 0 on the CPU
};

class Device {
 public:
  virtual ~Device() = default;

  // Zeroed. Throws Error OUT_OF_MEMORY.
  virtual std::shared_ptr<Buffer> allocate(size_t bytes) = 0;
  virtual void write(Buffer& to, size_t offset, const void* from, size_t bytes) = 0;
  virtual void read(const Buffer& from, size_t offset, void* to, size_t bytes) = 0;

  // Throws INVALID_ARG for a dtype the backend's kernels do not take.
  virtual size_t matrix_bytes(const MatrixShape& shape) const = 0;

  // Of a panel (program/op.h): what its numbers are, and its bytes whatever the expert offsets turn out to be.
  virtual DType panel_dtype() const = 0;
  virtual size_t panel_bytes(int64_t num_rows, int64_t num_experts, int64_t features) const = 0;

  // Whether the backend has a kernel for an op of program/op_registry.h.
  virtual bool supports(std::string_view op) const = 0;
  virtual std::string name() const = 0;
  virtual DeviceMemory memory() const { return {}; }

  // Streams parts of files into the packed layout or plain rows, in working memory of a few MiB per thread. They may be
  // written in any order. `stop` is polled.
  virtual void load(std::span<const LoadPart> parts, const std::atomic<bool>& stop) = 0;
  // Packs a host matrix [count, out_features, in_features], f32 row-major (kernel users' weights).
  virtual void pack_matrix(const float* from, const MatrixTarget& target) = 0;

  struct RunOptions {
    const std::atomic<bool>* stop = nullptr;      // polled between records
    std::vector<double>* microseconds = nullptr;  // per record, when asked for
    bool check_finite = false;                    // after every record; names the first one that wrote NaN or infinity
  };
  virtual void run(const Program& program, const RunOptions& options) = 0;
  // Tensors of a program live in the device's arena until the next run.
  virtual void read_arena(size_t offset, void* to, size_t bytes) = 0;
  virtual void write_arena(const Program& program, size_t offset, const void* from, size_t bytes) = 0;
};

struct CpuOptions {
  int num_threads = 0;  // 0: the physical cores this process may use
  std::string isa;      // "", "portable", "avx2", "avx512", "avx512_bf16"; "" is the best this CPU has
};
std::unique_ptr<Device> make_cpu_device(const CpuOptions& options);

// For doctor: what the CPU has and what would be chosen.
struct CpuInfo {
  std::string model_name;
  std::vector<std::string> isas;  // usable here, worst first
  int default_threads;
};
CpuInfo cpu_info();

}  // namespace openmoe
