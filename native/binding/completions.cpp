#include "binding/completions.h"

#include "binding/handle.h"

namespace openmoe {

struct DeviceHandle::Completion {
  DeviceHandle* owner;
  napi_deferred deferred;
  std::vector<napi_ref> keep;
  std::function<Napi::Value(Napi::Env)> result;
  std::exception_ptr error;
  void settle(Napi::Env env);
};

DeviceHandle::DeviceHandle(Napi::Env env, std::unique_ptr<Device> device)
    : executor_(std::make_unique<Executor>(std::move(device))), env_(env) {
  napi_value name = Napi::String::New(env, "openmoe");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle,
                                      &deliver_) != napi_ok)
    throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, deliver_);
  napi_add_env_cleanup_hook(env, close_at_exit, this);
}

// Runs when the environment goes away (exit, worker.terminate()), before Node closes the thread-safe function itself,
// because hooks run in reverse order: after the join no other thread can touch it.
void DeviceHandle::close_at_exit(void* data) {
  auto* handle = static_cast<DeviceHandle*>(data);
  handle->executor_->close([] {});
  handle->executor_->join();
  handle->deliver_ = nullptr;
}

// By the garbage collector, once nothing is pending, or at the end of the environment, after close_at_exit.
DeviceHandle::~DeviceHandle() {
  executor_.reset();
  if (!deliver_) return;
  napi_remove_env_cleanup_hook(env_, close_at_exit, this);
  napi_release_threadsafe_function(deliver_, napi_tsfn_abort);
}

void DeviceHandle::add_pending(napi_env env) {
  if (pending_++ == 0) napi_ref_threadsafe_function(env, deliver_);
}

void DeviceHandle::post(Completion* completion) {
  // Fails only while the environment closes; the promise can no longer be settled then.
  if (napi_call_threadsafe_function(deliver_, completion, napi_tsfn_nonblocking) != napi_ok) delete completion;
}

void DeviceHandle::settle(napi_env raw_env, napi_value, void*, void* data) {
  std::unique_ptr<Completion> completion(static_cast<Completion*>(data));
  if (!raw_env) return;  // the environment is closing
  Napi::Env env(raw_env);
  Napi::HandleScope scope(env);
  DeviceHandle& owner = *completion->owner;
  if (--owner.pending_ == 0) napi_unref_threadsafe_function(env, owner.deliver_);
  try {
    completion->settle(env);
  } catch (const Napi::Error&) {
    // worker.terminate() has forbidden JavaScript meanwhile: nobody waits any more.
  }
  for (napi_ref ref : completion->keep) napi_delete_reference(env, ref);
}

void DeviceHandle::Completion::settle(Napi::Env env) {
  const auto reject = [&](const Error& reason) {
    napi_reject_deferred(env, deferred, to_js_error(env, reason).Value());
  };
  try {
    if (error) std::rethrow_exception(error);
    napi_resolve_deferred(env, deferred, result ? result(env) : env.Undefined());
  } catch (const Error& reason) {
    reject(reason);
  } catch (const Napi::Error& reason) {
    napi_reject_deferred(env, deferred, reason.Value());
  } catch (const std::bad_alloc&) {
    reject(Error("OUT_OF_MEMORY", "Working memory could not be allocated. Free memory, or run fewer tokens at once."));
  } catch (const std::exception& reason) {
    reject(Error("INTERNAL", reason.what()));
  }
}

std::unique_ptr<DeviceHandle::Completion> DeviceHandle::make_completion(Napi::Env env,
                                                                        const std::vector<Napi::Value>& keep,
                                                                        napi_value* promise) {
  auto completion = std::make_unique<Completion>();
  completion->owner = this;
  // Fails when worker.terminate() comes at this moment.
  if (napi_create_promise(env, &completion->deferred, promise) != napi_ok) throw Napi::Error::New(env);
  for (const Napi::Value& value : keep) {
    napi_ref ref;
    if (napi_create_reference(env, value, 1, &ref) != napi_ok) throw Napi::Error::New(env);
    completion->keep.push_back(ref);
  }
  return completion;
}

Napi::Promise DeviceHandle::submit(Napi::Env env, std::function<void(Device&, const std::atomic<bool>&)> work,
                                   const std::vector<Napi::Value>& keep, std::function<Napi::Value(Napi::Env)> result) {
  napi_value promise = nullptr;
  auto completion = make_completion(env, keep, &promise);
  completion->result = std::move(result);
  Completion* posted = completion.release();
  add_pending(env);
  const bool accepted = executor_->submit({std::move(work), [this, posted](std::exception_ptr error) {
                                             posted->error = error;
                                             post(posted);
                                           }});
  if (!accepted) {
    posted->error = std::make_exception_ptr(Error("DISPOSED", "The device was disposed. Open a new one."));
    settle(env, nullptr, nullptr, posted);
  }
  return Napi::Promise(env, promise);
}

void DeviceHandle::submit_silently(std::function<void()> work) {
  executor_->submit(
      {[work = std::move(work)](Device&, const std::atomic<bool>&) { work(); }, [](std::exception_ptr) {}});
}

Napi::Promise DeviceHandle::close(Napi::Env env, const Napi::Value& self) {
  napi_value promise = nullptr;
  Completion* posted = make_completion(env, {self}, &promise).release();
  add_pending(env);
  if (!executor_->close([this, posted] { post(posted); })) settle(env, nullptr, nullptr, posted);
  return Napi::Promise(env, promise);
}

}  // namespace openmoe
