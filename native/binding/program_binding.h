#pragma once

#include <napi.h>

namespace openmoe {

// Programs and their runs.
void init_program(Napi::Env env, Napi::Object exports);

}  // namespace openmoe
