// What the functions of the addon read their arguments with. Anything may come: a wrong argument is an error that says
// what was expected.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "binding/handle.h"
#include "device/device.h"
#include "program/dtype.h"
#include "support/error.h"

namespace openmoe {

template <>
struct HandleType<Buffer> {
  static constexpr napi_type_tag tag = {0x6f70656e6d6f6502, 0x627566666572};
  static constexpr const char* name = "buffer";
};

inline double number(const Napi::Value& value, const char* what, double max = 9007199254740991.0) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= max) || number != std::floor(number))
    fail_arg(std::string(what) + " must be a whole number from 0 to " + std::to_string(static_cast<int64_t>(max)));
  return number;
}

inline Napi::Array array_of(const Napi::Value& value, const char* what) {
  if (!value.IsArray()) fail_arg(std::string(what) + " must be an array");
  return value.As<Napi::Array>();
}

inline DType dtype(const Napi::Value& value) { return static_cast<DType>(number(value, "dtype", kNumDTypes - 1)); }

struct Bytes {
  void* data;
  size_t size;
};

inline Bytes bytes_of(const Napi::Value& value) {
  if (!value.IsTypedArray()) fail_arg("expected a typed array");
  const auto array = value.As<Napi::TypedArray>();
  auto* base = static_cast<std::byte*>(array.ArrayBuffer().Data());
  if (!base && array.ByteLength() > 0) fail_arg("the typed array's buffer is detached");
  return {base ? base + array.ByteOffset() : nullptr, array.ByteLength()};
}

inline void check_range(const Buffer& buffer, double offset, size_t bytes) {
  if (offset > static_cast<double>(buffer.bytes()) || bytes > buffer.bytes() - static_cast<size_t>(offset))
    fail_arg("bytes " + std::to_string(static_cast<int64_t>(offset)) + " to +" + std::to_string(bytes) +
             " are outside a buffer of " + std::to_string(buffer.bytes()));
}

}  // namespace openmoe
