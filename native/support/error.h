#pragma once

#include <stdexcept>
#include <string>

namespace openmoe {

// Crosses the binding as an OpenMoeError: `code` is one of lib/errors.ts without the ERR_OPENMOE_ prefix.
struct Error : std::runtime_error {
  Error(const char* code, const std::string& message) : std::runtime_error(message), code(code) {}
  const char* code;
};

[[noreturn]] inline void fail_arg(const std::string& message) { throw Error("INVALID_ARG", message); }

}  // namespace openmoe
