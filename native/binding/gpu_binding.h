#pragma once

#include <napi.h>

namespace openmoe {

// Which GPUs there are, and opening one.
void init_gpu(Napi::Env env, Napi::Object exports);

}  // namespace openmoe
