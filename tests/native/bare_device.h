// A device without the addon around it, for native programs that bring kernels of their own: under nvcc a CUDA device,
// else an emulated one. A program written against it is built twice, and proves on the emulator that it itself is
// right.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#if defined(__CUDACC__)
#include "gpu/cuda_stream.h"
#else
#include "gpu/emulator/machine.h"
#endif
#include "gpu/gpu.h"
#include "support/error.h"

namespace openmoe::gpu {

struct BareOptions {
  int arch = 90;  // of the emulated device; on a real one, 80 chooses the kernels for devices before Hopper
  uint64_t seed = 1;
  size_t memory_bytes = size_t{1} << 34;
};

#if defined(__CUDACC__)

class BareDevice {
 public:
  static constexpr bool kEmulated = false;

  // Why there is none; empty when device 0 can be used.
  static std::string missing() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return describe_error(error);
    return count == 0 ? "the driver sees no device" : "";
  }

  explicit BareDevice(const BareOptions& options) {
    check(cudaSetDevice(0), "choosing the device");
    check(cudaGetDeviceProperties(&properties_, 0), "asking for the device");
    check(cudaStreamCreateWithFlags(&cuda_stream_, cudaStreamNonBlocking), "creating a stream");
    cudaDeviceProp properties = properties_;
    if (options.arch == 80) properties.major = 8, properties.minor = 0;
    stream_ = std::make_unique<CudaStream>(cuda_stream_, properties, false);
    stream_->reserve_faults(1);
  }
  ~BareDevice() {
    if (graph_) cudaGraphExecDestroy(graph_);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    stream_.reset();
    cudaStreamDestroy(cuda_stream_);
  }
  BareDevice(const BareDevice&) = delete;
  BareDevice& operator=(const BareDevice&) = delete;

  std::string name() const { return properties_.name; }
  int driver() const {
    int version = 0;
    check(cudaDriverGetVersion(&version), "asking for the driver");
    return version;
  }
  size_t free_bytes() const {
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    return free;
  }

  void* allocate(size_t bytes) {
    void* address = nullptr;
    check(cudaMalloc(&address, bytes ? bytes : 1), "allocating");
    return address;
  }
  void free(void* address) { cudaFree(address); }
  void write(void* to, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_stream_), "writing");
    synchronize();
  }
  void read(void* to, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_stream_), "reading");
    synchronize();
  }
  void fill(void* to, int byte, size_t bytes) { check(cudaMemsetAsync(to, byte, bytes, cuda_stream_), "filling"); }
  Stream& stream() { return *stream_; }
  void synchronize() { check(cudaStreamSynchronize(cuda_stream_), "waiting"); }
  bool faulted() {
    int32_t fault = 0;
    read(&fault, stream_->faults(), sizeof fault);
    return fault != 0;
  }

  // Keeps what `body` launches as one graph. It must have run once before: a capture cannot allocate a workspace.
  void capture(const std::function<void()>& body) {
    if (graph_) cudaGraphExecDestroy(graph_);
    graph_ = nullptr;
    cudaGraph_t graph;
    check(cudaStreamBeginCapture(cuda_stream_, cudaStreamCaptureModeThreadLocal), "capturing");
    body();
    check(cudaStreamEndCapture(cuda_stream_, &graph), "capturing");
    const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "making a graph");
  }
  void replay() { check(cudaGraphLaunch(graph_, cuda_stream_), "replaying"); }

  // A point of time in the stream; microseconds between two, once both have passed.
  void mark(size_t point) {
    while (events_.size() <= point) {
      events_.emplace_back();
      check(cudaEventCreate(&events_.back()), "creating an event");
    }
    check(cudaEventRecord(events_[point], cuda_stream_), "recording an event");
  }
  double microseconds(size_t from, size_t to) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, events_[from], events_[to]), "reading a time");
    return milliseconds * 1e3;
  }

 private:
  cudaDeviceProp properties_;
  cudaStream_t cuda_stream_ = nullptr;
  std::unique_ptr<CudaStream> stream_;
  cudaGraphExec_t graph_ = nullptr;
  std::vector<cudaEvent_t> events_;
};

#else

class BareDevice {
 public:
  static constexpr bool kEmulated = true;
  static std::string missing() { return ""; }

  explicit BareDevice(const BareOptions& options)
      : machine_({.arch = options.arch, .num_sms = 4, .seed = options.seed, .memory_bytes = options.memory_bytes}),
        stream_(machine_) {}

  std::string name() const { return "emulated GPU, sm_" + std::to_string(machine_.options().arch); }
  int driver() const { return 0; }
  size_t free_bytes() const { return machine_.options().memory_bytes - machine_.used_bytes(); }

  void* allocate(size_t bytes) { return machine_.allocate(bytes); }
  void free(void* address) { machine_.free(address); }
  void write(void* to, const void* from, size_t bytes) { machine_.write(to, from, bytes); }
  void read(void* to, const void* from, size_t bytes) { machine_.read(to, from, bytes); }
  void fill(void* to, int byte, size_t bytes) { machine_.fill(to, byte, bytes); }
  Stream& stream() { return stream_; }
  void synchronize() { machine_.synchronize(); }
  bool faulted() {
    int32_t fault = 0;
    machine_.read(&fault, stream_.fault(), sizeof fault);
    return fault != 0;
  }

  void capture(const std::function<void()>& body) { body_ = body; }
  void replay() { body_(); }

  void mark(size_t point) {
    if (points_.size() <= point) points_.resize(point + 1);
    points_[point] = std::chrono::steady_clock::now();
  }
  double microseconds(size_t from, size_t to) const {
    return std::chrono::duration<double, std::micro>(points_[to] - points_[from]).count();
  }

 private:
  Machine machine_;
  MachineStream stream_;
  std::function<void()> body_;
  std::vector<std::chrono::steady_clock::time_point> points_;
};

#endif

// Numbers on a device, freed with it.
template <class T>
class DeviceArray {
 public:
  DeviceArray(BareDevice& device, size_t count)
      : data(static_cast<T*>(device.allocate(count * sizeof(T)))), device_(device), count_(count) {
    if (!data) throw Error("OUT_OF_MEMORY", "the device has no memory left");
  }
  DeviceArray(BareDevice& device, const std::vector<T>& from) : DeviceArray(device, from.size()) {
    device.write(data, from.data(), bytes());
  }
  ~DeviceArray() { device_.free(data); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  size_t bytes() const { return count_ * sizeof(T); }
  void poison() { device_.fill(data, 0xff, bytes()); }
  std::vector<T> read() const {
    std::vector<T> to(count_);
    device_.read(to.data(), data, bytes());
    return to;
  }

  T* const data;

 private:
  BareDevice& device_;
  const size_t count_;
};

}  // namespace openmoe::gpu
