// Native objects as JavaScript sees them: a plain object with a type tag around a shared_ptr. A handle of the wrong
// kind, or a forged one, is a TypeError, never a wrong cast.
#pragma once

#include <napi.h>

#include <exception>
#include <memory>
#include <new>
#include <string>

#include "support/error.h"

namespace openmoe {

template <class T>
struct HandleType;  // specialised with `tag` and `name` per kind

template <class T>
Napi::Object make_handle(Napi::Env env, std::shared_ptr<T> value) {
  Napi::Object handle = Napi::Object::New(env);
  handle.TypeTag(&HandleType<T>::tag);
  auto owned = std::make_unique<std::shared_ptr<T>>(std::move(value));
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); };
  if (napi_wrap(env, handle, owned.get(), finalize, nullptr, nullptr) != napi_ok) throw Napi::Error::New(env);
  owned.release();
  return handle;
}

// The pointer inside may be null: dispose() clears it.
template <class T>
std::shared_ptr<T>& slot_of(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&HandleType<T>::tag))
    throw Napi::TypeError::New(value.Env(), std::string("expected a native ") + HandleType<T>::name);
  void* data = nullptr;
  if (napi_unwrap(value.Env(), value, &data) != napi_ok) throw Napi::Error::New(value.Env());
  return *static_cast<std::shared_ptr<T>*>(data);
}

template <class T>
std::shared_ptr<T> from_handle(const Napi::Value& value) {
  const std::shared_ptr<T>& slot = slot_of<T>(value);
  if (!slot) throw Error("DISPOSED", std::string("This ") + HandleType<T>::name + " was disposed.");
  return slot;
}

// Errors carry `code`; lib/native.ts turns them into OpenMoeError.
inline Napi::Error to_js_error(Napi::Env env, const Error& error) {
  Napi::Error js = Napi::Error::New(env, error.what());
  js.Set("code", std::string("ERR_OPENMOE_") + error.code);
  return js;
}

// Converts our errors; the body is the binding of one function.
template <class F>
auto guarded(F body) {
  return [body](const Napi::CallbackInfo& info) -> Napi::Value {
    try {
      return body(info);
    } catch (const Error& error) {
      throw to_js_error(info.Env(), error);
    } catch (const std::bad_alloc&) {
      throw to_js_error(info.Env(), Error("OUT_OF_MEMORY", "Memory could not be allocated."));
    } catch (const Napi::Error&) {
      throw;
    } catch (const std::exception& error) {  // node-addon-api would let it end the process
      throw to_js_error(info.Env(), Error("INTERNAL", error.what()));
    }
  };
}

}  // namespace openmoe
