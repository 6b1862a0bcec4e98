#include "binding/completions.h"

#include "binding/handle.h"

namespace openmoe {

struct DeviceHandle::Completion {
  DeviceHandle* owner;
  napi_deferred deferred;
  std::vector<napi_ref> keep;
  std::function<Napi::Value(Napi::Env)> result;
  std::exception_ptr error;
};

namespace {

// Runs when the environment goes away (exit, worker.terminate()), before Node closes the thread-safe function: after
// the join no other thread can touch it.
void close_at_exit(void* executor) {
  static_cast<Executor*>(executor)->close([] {});
  static_cast<Executor*>(executor)->join();
}

}  // namespace

DeviceHandle::DeviceHandle(Napi::Env env, std::unique_ptr<Device> device)
    : executor_(std::make_unique<Executor>(std::move(device))), env_(env) {
  napi_value name = Napi::String::New(env, "openmoe");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle,
                                      &deliver_) != napi_ok)
    throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, deliver_);
  napi_add_env_cleanup_hook(env, close_at_exit, executor_.get());
}

// By the garbage collector, once nothing is pending, or at the end of the environment, after close_at_exit.
DeviceHandle::~DeviceHandle() {
  napi_remove_env_cleanup_hook(env_, close_at_exit, executor_.get());
  executor_.reset();
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
    if (completion->error) std::rethrow_exception(completion->error);
    const Napi::Value value = completion->result ? completion->result(env) : env.Undefined();
    napi_resolve_deferred(env, completion->deferred, value);
  } catch (const Error& error) {
    napi_reject_deferred(env, completion->deferred, to_js_error(env, error).Value());
  } catch (const Napi::Error& error) {
    napi_reject_deferred(env, completion->deferred, error.Value());
  } catch (const std::bad_alloc&) {
    const Error error("OUT_OF_MEMORY",
                      "Working memory could not be allocated. Free memory, or run fewer tokens at once.");
    napi_reject_deferred(env, completion->deferred, to_js_error(env, error).Value());
  } catch (const std::exception& error) {
    napi_reject_deferred(env, completion->deferred, to_js_error(env, Error("INTERNAL", error.what())).Value());
  }
  for (napi_ref ref : completion->keep) napi_delete_reference(env, ref);
}

Napi::Promise DeviceHandle::submit(Napi::Env env, std::function<void(Device&, const std::atomic<bool>&)> work,
                                   const std::vector<Napi::Value>& keep, std::function<Napi::Value(Napi::Env)> result) {
  auto completion = std::make_unique<Completion>();
  completion->owner = this;
  completion->result = std::move(result);
  napi_value promise;
  napi_create_promise(env, &completion->deferred, &promise);
  for (const Napi::Value& value : keep) {
    napi_ref ref;
    napi_create_reference(env, value, 1, &ref);
    completion->keep.push_back(ref);
  }
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

Napi::Promise DeviceHandle::close(Napi::Env env) {
  auto completion = std::make_unique<Completion>();
  completion->owner = this;
  napi_value promise;
  napi_create_promise(env, &completion->deferred, &promise);
  Completion* posted = completion.release();
  add_pending(env);
  if (!executor_->close([this, posted] { post(posted); })) settle(env, nullptr, nullptr, posted);
  return Napi::Promise(env, promise);
}

}  // namespace openmoe
