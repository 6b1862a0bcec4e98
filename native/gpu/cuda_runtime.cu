// The module openmoe_cuda: the CUDA runtime behind gpu/runtime.h.
#include <atomic>
#include <memory>
#include <mutex>

#include "gpu/cuda_stream.h"
#include "gpu/launch_table.h"

namespace openmoe::gpu {

namespace {

class CudaRuntime final : public Runtime {
 public:
  CudaRuntime(int index, const RuntimeOptions& options) : index_(index) {
    check(cudaSetDevice(index), "choosing the device");
    check(cudaGetDeviceProperties(&properties_, index), "asking for the device");
    check(cudaStreamCreateWithFlags(&cuda_stream_, cudaStreamNonBlocking), "creating a stream");
    stream_ = std::make_unique<CudaStream>(cuda_stream_, properties_, options.batch_invariant);
  }
  ~CudaRuntime() override {
    cudaSetDevice(index_);
    cudaStreamSynchronize(cuda_stream_);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    stream_.reset();
    cudaStreamDestroy(cuda_stream_);
  }

  DeviceInfo info() noexcept override {
    DeviceInfo info;
    (void)describe(index_, &info);
    cudaSetDevice(index_);
    cudaMemGetInfo(&info.free_bytes, &info.total_bytes);
    return info;
  }
  static Status describe(int index, DeviceInfo* info) noexcept {
    return guarded([&] {
      cudaDeviceProp properties;
      check(cudaGetDeviceProperties(&properties, index), "asking for the device");
      info->description = properties.name;
      info->capability = properties.major * 10 + properties.minor;
      info->num_sms = properties.multiProcessorCount;
      info->total_bytes = properties.totalGlobalMem;
      check(cudaDriverGetVersion(&info->driver), "asking for the driver");
      check(cudaRuntimeGetVersion(&info->runtime), "asking for the runtime");
    });
  }

  Status allocate(size_t bytes, void** address) noexcept override {
    return on_device("allocating", [&] { check(cudaMalloc(address, bytes ? bytes : 1), "allocating"); });
  }
  void free(void* address) noexcept override {
    cudaSetDevice(index_);
    cudaFree(address);
  }
  Status copy_in(void* to, const void* from, size_t bytes) noexcept override {
    return on_device("copying to the device", [&] {
      check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_stream_), "copying to the device");
      check(cudaStreamSynchronize(cuda_stream_), "copying to the device");
    });
  }
  Status copy_out(void* to, const void* from, size_t bytes) noexcept override {
    return on_device("copying from the device", [&] {
      check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_stream_), "copying from the device");
      check(cudaStreamSynchronize(cuda_stream_), "copying from the device");
    });
  }
  Status fill(void* to, int byte, size_t bytes) noexcept override {
    return on_device("filling", [&] { check(cudaMemsetAsync(to, byte, bytes, cuda_stream_), "filling"); });
  }
  Status pack(const PackWeights& args) noexcept override {
    return on_device("packing weights", [&] {
      pack_weights(args, *stream_);
      check(cudaStreamSynchronize(cuda_stream_), "packing weights");
    });
  }

  Status begin_run(int num_records, bool times) noexcept override {
    num_records_ = num_records, timed_ = times;
    return on_device("starting a run", [&] {
      stream_->reserve_faults(num_records > 0 ? num_records : 1);
      while (times && static_cast<int>(events_.size()) <= num_records) {
        events_.emplace_back();
        check(cudaEventCreate(&events_.back()), "creating an event");
      }
      if (times) check(cudaEventRecord(events_[0], cuda_stream_), "recording an event");
    });
  }
  Status launch(std::string_view op, const void* args, int record) noexcept override {
    return on_device("launching", [&] {
      stream_->set_record(record);
      launch_op(op, args, *stream_);
      if (timed_) check(cudaEventRecord(events_[record + 1], cuda_stream_), "recording an event");
    });
  }
  Status end_run(int* faulty, std::vector<double>* times) noexcept override {
    *faulty = -1;
    return on_device("a run", [&] {
      std::vector<int32_t> faults(num_records_);
      check(cudaMemcpyAsync(faults.data(), stream_->faults(), sizeof(int32_t) * num_records_, cudaMemcpyDeviceToHost,
                            cuda_stream_),
            "reading flags");
      check(cudaStreamSynchronize(cuda_stream_), "a run");
      for (int i = num_records_ - 1; i >= 0; --i)
        if (faults[i]) *faulty = i;
      for (int i = 0; times && timed_ && i < num_records_; ++i) {
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]), "reading a time");
        times->push_back(milliseconds * 1e3);
      }
    });
  }
  Status synchronize() noexcept override {
    return on_device("waiting", [&] { check(cudaStreamSynchronize(cuda_stream_), "waiting"); });
  }

 private:
  // What goes wrong in a kernel ("sticky") is reported by every later call, and the context cannot be used again: after
  // the first such error the device is lost, and says so without asking CUDA.
  template <class Body>
  Status on_device(const char* doing, Body&& body) noexcept {
    if (lost_) return {"DEVICE_LOST", lost_message()};
    cudaSetDevice(index_);
    Status status = guarded(body);
    if (!status) return status;
    const cudaError_t sticky = cudaDeviceSynchronize();
    if (sticky == cudaSuccess) return status;
    {
      const std::lock_guard lock(mutex_);
      message_ = std::string(doing) + " failed: " + describe_error(sticky);
    }
    lost_ = true;
    return {"DEVICE_LOST", lost_message()};
  }
  std::string lost_message() {
    const std::lock_guard lock(mutex_);
    return message_;
  }

  int index_;
  cudaDeviceProp properties_;
  cudaStream_t cuda_stream_ = nullptr;
  std::unique_ptr<CudaStream> stream_;
  std::vector<cudaEvent_t> events_;
  int num_records_ = 0;
  bool timed_ = false;
  std::atomic<bool> lost_{false};
  std::mutex mutex_;
  std::string message_;
};

Status count(int* devices) noexcept {
  *devices = 0;
  const cudaError_t error = cudaGetDeviceCount(devices);
  if (error == cudaSuccess) return {};
  cudaGetLastError();
  *devices = 0;
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    if (driver == 0) return {"DEVICE_UNAVAILABLE", "no NVIDIA driver is installed"};
    return {"DEVICE_UNAVAILABLE", "the NVIDIA driver is for CUDA " + version(driver) + ", this module for " +
                                      version(runtime) + ". Update the driver"};
  }
  if (error == cudaErrorNoDevice)
    return {"DEVICE_UNAVAILABLE", "the driver sees no GPU; CUDA_VISIBLE_DEVICES may hide it"};
  return {"DEVICE_UNAVAILABLE", describe_error(error)};
}

Status open(int index, const RuntimeOptions& options, Runtime** runtime) noexcept {
  return guarded([&] { *runtime = new CudaRuntime(index, options); });
}

constexpr Module kModule = {contract_stamp(), count, CudaRuntime::describe, open};

}  // namespace

}  // namespace openmoe::gpu

extern "C" __attribute__((visibility("default"))) const openmoe::gpu::Module* openmoe_gpu_module() {
  return &openmoe::gpu::kModule;
}
