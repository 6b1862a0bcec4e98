#include <napi.h>

#include "binding/device_binding.h"
#include "binding/gpu_binding.h"
#include "binding/program_binding.h"
#include "binding/roofline_binding.h"
#include "binding/tokenizer_binding.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  openmoe::init_device(env, exports);
  openmoe::init_program(env, exports);
  openmoe::init_gpu(env, exports);
  openmoe::init_roofline(env, exports);
  openmoe::init_tokenizer(env, exports);
  return exports;
}

NODE_API_MODULE(openmoe, init)
