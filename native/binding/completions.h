// From the executor's thread back to JavaScript: one promise per job, delivered through one thread-safe function.
#pragma once

#include <napi.h>

#include <exception>
#include <memory>
#include <vector>

#include "device/executor.h"

namespace openmoe {

class DeviceHandle {
 public:
  DeviceHandle(Napi::Env env, std::unique_ptr<Device> device);
  ~DeviceHandle();
  DeviceHandle(const DeviceHandle&) = delete;

  std::shared_ptr<Device> device() { return executor_->device(); }

  // Runs `work` on the executor and settles the promise with `result(env)`, undefined when empty. `keep` stays
  // referenced until then: the arrays results are written into.
  Napi::Promise submit(Napi::Env env, std::function<void(Device&, const std::atomic<bool>& stop)> work,
                       const std::vector<Napi::Value>& keep, std::function<Napi::Value(Napi::Env)> result = nullptr);
  // Runs `work` without telling anyone (freeing memory).
  void submit_silently(std::function<void()> work);
  // Resolves when the thread has ended. Later calls resolve as well. `self` is this handle in JavaScript: nobody else
  // may hold it while the promise is pending.
  Napi::Promise close(Napi::Env env, const Napi::Value& self);

 private:
  struct Completion;
  std::unique_ptr<Completion> make_completion(Napi::Env env, const std::vector<Napi::Value>& keep, napi_value* promise);
  static void close_at_exit(void* handle);
  static void settle(napi_env env, napi_value, void* context, void* data);
  void post(Completion* completion);
  void add_pending(napi_env env);

  std::unique_ptr<Executor> executor_;
  napi_env env_;
  napi_threadsafe_function deliver_ = nullptr;
  int pending_ = 0;  // JavaScript thread only: the process may end while nothing is pending
};

}  // namespace openmoe
