// A stream of a CUDA device. Besides gpu/ptx.h the only place that knows CUDA, with the runtime built on it.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <unordered_set>

#include "gpu/stream.h"
#include "support/error.h"

namespace openmoe::gpu {

constexpr size_t kDefaultShared = 48 << 10;  // bytes a kernel may use without asking

inline std::string describe_error(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + std::to_string(error) + "), " + cudaGetErrorString(error);
}

// Errors of one call, after which the device still works.
inline void check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it was reported, the next call must not find it again
  if (error == cudaErrorMemoryAllocation) throw Error("OUT_OF_MEMORY", "");
  throw Error("INTERNAL", std::string(doing) + " failed: " + describe_error(error));
}

class CudaStream final : public Stream {
 public:
  CudaStream(cudaStream_t stream, const cudaDeviceProp& properties, bool invariant)
      : stream_(stream), num_sms_(properties.multiProcessorCount), invariant_(invariant) {
    arch_ = properties.major == 9 && properties.minor == 0 ? 90 : 80;
  }
  ~CudaStream() override {
    cudaFree(workspace_);
    cudaFree(faults_);
  }

  void* workspace(size_t bytes) override {
    if (bytes <= workspace_bytes_) return workspace_;
    // Kernels in flight may still use the old one: cudaFree waits for them.
    cudaFree(workspace_);
    workspace_ = nullptr, workspace_bytes_ = 0;
    check(cudaMalloc(&workspace_, bytes), "allocating a workspace");
    workspace_bytes_ = bytes;
    return workspace_;
  }
  int num_sms() const override { return num_sms_; }
  int arch() const override { return arch_; }
  int32_t* fault() override { return faults_ + record_; }
  bool batch_invariant() const override { return invariant_; }

  // Flags for `records` records, zero.
  void reserve_faults(int records) {
    if (records > num_faults_) {
      cudaFree(faults_);
      faults_ = nullptr, num_faults_ = 0;
      check(cudaMalloc(&faults_, sizeof(int32_t) * records), "allocating flags");
      num_faults_ = records;
    }
    check(cudaMemsetAsync(faults_, 0, sizeof(int32_t) * records, stream_), "clearing flags");
  }
  void set_record(int record) { record_ = record; }
  const int32_t* faults() const { return faults_; }

 private:
  void start(const Launch& launch, const void* kernel, void** arguments) override {
    if (launch.shared_bytes > kDefaultShared && large_.insert(kernel).second) {
      int most = 0, device = 0;
      check(cudaGetDevice(&device), "asking for the device");
      check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for shared memory");
      cudaFuncAttributes attributes;
      check(cudaFuncGetAttributes(&attributes, kernel), "asking for a kernel");
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 most - static_cast<int>(attributes.sharedSizeBytes)),
            "reserving shared memory");
    }
    cudaLaunchAttribute overlap;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(launch.grid));
    config.blockDim = dim3(launch.threads);
    config.dynamicSmemBytes = launch.shared_bytes;
    config.stream = stream_;
    config.attrs = &overlap;
    config.numAttrs = launch.overlap && arch_ == 90 ? 1 : 0;
    check(cudaLaunchKernelExC(&config, kernel, arguments), launch.name);
  }

  cudaStream_t stream_;
  int num_sms_, arch_;
  bool invariant_;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
  int32_t* faults_ = nullptr;
  int num_faults_ = 0, record_ = 0;
  std::unordered_set<const void*> large_;  // kernels that may use all shared memory
};

}  // namespace openmoe::gpu
