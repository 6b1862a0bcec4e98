// From an op's name to its launcher, and from what a launcher throws to a Status: the part of a module's runtime that
// CUDA and the emulator share.
#pragma once

#include <new>
#include <string_view>

#include "gpu/runtime.h"
#include "gpu/stream.h"
#include "support/error.h"

namespace openmoe::gpu {

#define OPENMOE_DECLARE_LAUNCHER(op, Contract) void op(const Contract& args, Stream& stream);
OPENMOE_GPU_OPS(OPENMOE_DECLARE_LAUNCHER)
#undef OPENMOE_DECLARE_LAUNCHER

inline void launch_op(std::string_view name, const void* args, Stream& stream) {
#define OPENMOE_LAUNCH(op, Contract) \
  if (name == #op) return op(*static_cast<const Contract*>(args), stream);
  OPENMOE_GPU_OPS(OPENMOE_LAUNCH)
#undef OPENMOE_LAUNCH
  throw Error("UNSUPPORTED", "this module has no kernel for " + std::string(name));
}

// No exception may leave a module: the addon that loaded it could not tell what it is.
template <class Body>
Status guarded(Body&& body) noexcept {
  try {
    body();
    return {};
  } catch (const Error& error) {
    return {error.code, error.what()};
  } catch (const std::bad_alloc&) {
    return {"OUT_OF_MEMORY", "host memory could not be allocated"};
  } catch (const std::exception& error) {
    return {"INTERNAL", error.what()};
  }
}

}  // namespace openmoe::gpu
