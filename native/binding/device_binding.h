#pragma once

#include <napi.h>

namespace openmoe {

// Devices, buffers, programs and runs. Every call that computes returns a promise and works on the device's thread.
void init_device(Napi::Env env, Napi::Object exports);

}  // namespace openmoe
