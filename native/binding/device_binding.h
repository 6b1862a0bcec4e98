#pragma once

#include <napi.h>

#include "binding/completions.h"
#include "binding/handle.h"

namespace openmoe {

template <>
struct HandleType<DeviceHandle> {
  static constexpr napi_type_tag tag = {0x6f70656e6d6f6501, 0x646576696365};
  static constexpr const char* name = "device";
};

// Devices and buffers. Every call that computes returns a promise and works on the device's thread.
void init_device(Napi::Env env, Napi::Object exports);

}  // namespace openmoe
