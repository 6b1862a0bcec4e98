#include <dlfcn.h>

#include <filesystem>
#include <map>
#include <mutex>

#include "device/gpu.h"
#include "support/error.h"

namespace openmoe {

namespace {

constexpr int kLeastCapability = 80;  // bf16 tensor cores and cp.async

// The folder of the shared object this code is in.
std::filesystem::path own_folder() {
  static const int anchor = 0;
  Dl_info info;
  if (!dladdr(&anchor, &info) || !info.dli_fname) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

std::string file_of(const std::string& name) {
  return "openmoe_" + (name == "cuda" ? std::string("cuda") : std::string("cuda_emulator")) + ".so";
}

GpuModule load(const std::string& name) {
  GpuModule result;
  const std::filesystem::path path = own_folder() / file_of(name);
  std::error_code ignored;
  result.is_built = std::filesystem::exists(path, ignored);
  if (!result.is_built) {
    result.problem = name == "cuda" ? "this build has no CUDA module: no nvcc 12.8 or newer was found when it was "
                                      "made. Install the CUDA toolkit, put nvcc on PATH and run: npm run build"
                                    : "the emulator is not built. Run: cmake --build build/native --target "
                                      "openmoe_cuda_emulator";
    return result;
  }
  // Every symbol now, none for others: two modules hold kernels of the same names.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = dlerror();
    result.problem = path.string() + " does not load: " + (why ? why : "no reason given") + ". Run: npm run build";
    return result;
  }
  const auto entry = reinterpret_cast<gpu::ModuleEntry>(dlsym(handle, gpu::kModuleEntry));
  const gpu::Module* module = entry ? entry() : nullptr;
  if (!module || module->stamp != gpu::contract_stamp()) {
    result.problem = path.string() + " was built from other sources than the addon. Run: npm run build";
    return result;
  }
  result.module = module;
  return result;
}

std::string too_old(const gpu::DeviceInfo& info) {
  return info.description + " has compute capability " + std::to_string(info.capability / 10) + "." +
         std::to_string(info.capability % 10) + ", the kernels need 8.0 (Ampere) or newer";
}

}  // namespace

const GpuModule& gpu_module(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, GpuModule> modules;
  const std::lock_guard lock(mutex);
  const auto found = modules.find(name);
  return found != modules.end() ? found->second : modules.emplace(name, load(name)).first->second;
}

GpuReport describe_gpus(const std::string& name) {
  const GpuModule& found = gpu_module(name);
  GpuReport report{found.is_built, found.problem, {}};
  if (!found.module) return report;
  int count = 0;
  if (const gpu::Status status = found.module->count(&count)) {
    report.problem = status.message;
    return report;
  }
  for (int i = 0; i < count; ++i) {
    gpu::DeviceInfo info;
    const gpu::Status status = found.module->describe(i, &info);
    if (status)
      report.problem = name + ":" + std::to_string(i) + ": " + status.message;
    else if (info.capability < kLeastCapability)
      report.problem = name + ":" + std::to_string(i) + ": " + too_old(info);
    report.devices.push_back(std::move(info));
  }
  for (const gpu::DeviceInfo& info : report.devices)
    if (info.capability >= kLeastCapability) report.problem.clear();
  return report;
}

gpu::Runtime* open_gpu(const GpuOptions& options) {
  const std::string name = options.module + ":" + std::to_string(options.index);
  const auto refuse = [&](const std::string& why) {
    throw Error("DEVICE_UNAVAILABLE",
                name + ": " + why + ". Pass { device: 'cpu' }; `openmoe doctor` says what is here.");
  };
  const GpuModule& found = gpu_module(options.module);
  if (!found.module) refuse(found.problem);
  int count = 0;
  if (const gpu::Status status = found.module->count(&count)) refuse(status.message);
  if (options.index >= count)
    refuse("there is no such device, there " + (count == 1 ? std::string("is 1") : "are " + std::to_string(count)));
  gpu::DeviceInfo info;
  if (const gpu::Status status = found.module->describe(options.index, &info)) refuse(status.message);
  if (info.capability < kLeastCapability) refuse(too_old(info));
  gpu::Runtime* runtime = nullptr;
  if (const gpu::Status status = found.module->open(options.index, options.runtime, &runtime)) refuse(status.message);
  return runtime;
}

}  // namespace openmoe
