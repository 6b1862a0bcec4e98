// GPU devices: modules beside the addon, loaded when one is asked for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "gpu/runtime.h"

namespace openmoe {

// A module that is loaded stays for the life of the process.
struct GpuModule {
  const gpu::Module* module = nullptr;  // null: `problem` says why
  bool is_built = false;                // the file is there
  std::string problem;
};

// `name` is cuda or cuda-emulator. Tried once per process.
const GpuModule& gpu_module(const std::string& name);

struct GpuReport {
  bool is_built = false;
  std::string problem;  // why there is no device; empty when there is one
  std::vector<gpu::DeviceInfo> devices;
};
GpuReport describe_gpus(const std::string& module);

struct GpuOptions {
  std::string module;
  int index = 0;
  gpu::RuntimeOptions runtime;
};
// Throws DEVICE_UNAVAILABLE with what is missing.
std::unique_ptr<Device> make_gpu_device(const GpuOptions& options);

}  // namespace openmoe
