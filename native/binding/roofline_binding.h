#pragma once

#include <napi.h>

namespace openmoe {

// measureRoof, for bench/ only.
void init_roofline(Napi::Env env, Napi::Object exports);

}  // namespace openmoe
