#pragma once

#include <napi.h>

namespace openmoe {

// Roof meters and readFile, for bench/ only.
void init_roofline(Napi::Env env, Napi::Object exports);

}  // namespace openmoe
