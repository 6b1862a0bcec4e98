#include "binding/gpu_binding.h"

#include <optional>

#include "binding/device_binding.h"
#include "device/gpu.h"

namespace openmoe {

namespace {

// A CUDA context takes a second to make, so a thread of libuv's pool makes it.
class OpenGpu : public Napi::AsyncWorker {
 public:
  OpenGpu(Napi::Env env, GpuOptions options)
      : Napi::AsyncWorker(env), options_(std::move(options)), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    try {
      device_ = make_gpu_device(options_);
    } catch (const Error& error) {
      error_ = error;
    }
  }
  void OnOK() override {
    if (error_) return deferred_.Reject(to_js_error(Env(), *error_).Value());
    deferred_.Resolve(make_handle(Env(), std::make_shared<DeviceHandle>(Env(), std::move(device_))));
  }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  GpuOptions options_;
  Napi::Promise::Deferred deferred_;
  std::unique_ptr<Device> device_;
  std::optional<Error> error_;
};

// openGpu(module, index, batchInvariant, seed)
Napi::Value open_gpu(const Napi::CallbackInfo& info) {
  GpuOptions options;
  options.module = info[0].ToString();
  options.index = info[1].ToNumber().Int32Value();
  options.runtime.batch_invariant = info[2].ToBoolean();
  options.runtime.seed = info[3].ToNumber().Uint32Value();
  if (options.index < 0) fail_arg("device must be 0 or more");
  auto* worker = new OpenGpu(info.Env(), std::move(options));  // deletes itself
  worker->Queue();
  return worker->promise();
}

// describeGpus(module): { isBuilt, problem, devices }
Napi::Value describe(const Napi::CallbackInfo& info) {
  const GpuReport report = describe_gpus(info[0].ToString());
  Napi::Array devices = Napi::Array::New(info.Env(), report.devices.size());
  for (uint32_t i = 0; i < report.devices.size(); ++i) {
    const gpu::DeviceInfo& from = report.devices[i];
    Napi::Object device = Napi::Object::New(info.Env());
    device.Set("description", from.description);
    device.Set("capability", from.capability);
    device.Set("numSms", from.num_sms);
    device.Set("totalBytes", static_cast<double>(from.total_bytes));
    device.Set("driver", from.driver);
    device.Set("runtime", from.runtime);
    devices.Set(i, device);
  }
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("isBuilt", report.is_built);
  result.Set("problem", report.problem);
  result.Set("devices", devices);
  return result;
}

}  // namespace

void init_gpu(Napi::Env env, Napi::Object exports) {
  exports.Set("openGpu", Napi::Function::New(env, guarded(open_gpu), "openGpu"));
  exports.Set("describeGpus", Napi::Function::New(env, guarded(describe), "describeGpus"));
}

}  // namespace openmoe
