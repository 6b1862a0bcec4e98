// JavaScript classes over native/tokenizer; lib/tokenizer is their only user and describes them in native_tokenizer.ts.
#pragma once

#include <napi.h>

namespace openmoe {

// Adds `Tokenizer` and `StreamDecoder` to the addon's exports. No state outlives the environment.
void init_tokenizer(Napi::Env env, Napi::Object exports);

}  // namespace openmoe
