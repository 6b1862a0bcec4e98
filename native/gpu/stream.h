// What a launcher sees of a device: a stream that runs kernels in order. The CUDA runtime and the emulator implement
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>

namespace openmoe::gpu {

struct Launch {
  const char* name;  // in errors and profiles
  int64_t grid;      // blocks; with none nothing is launched
  int threads;       // per block, whole warps
  size_t shared_bytes = 0;
  bool overlap = false;  // may start before the previous kernel ends: the kernel calls launch_wait() itself
};

class Stream {
 public:
  virtual ~Stream() = default;

  // Device memory for the kernels launched until the next call; its contents are unspecified.
  virtual void* workspace(size_t bytes) = 0;
  virtual int num_sms() const = 0;
  // Which kernel path runs here: 90 (Hopper) or 80 (every other device from sm_80 on).
  virtual int arch() const = 0;
  // One int on the device, 0 before each op: a kernel that meets an index out of range stores 1 there and goes on as if
  // the index were in range or the row dropped.
  virtual int32_t* fault() = 0;
  // The sums of a row must not depend on which other rows are there: no division of work that follows the row count.
  virtual bool batch_invariant() const { return false; }

  template <class... Parameters, class... Arguments>
  void launch(const Launch& launch, void (*kernel)(Parameters...), Arguments... arguments) {
    if (launch.grid <= 0) return;
    std::tuple<Parameters...> values(arguments...);
#if defined(__CUDACC__)
    std::apply(
        [&](auto&... value) {
          void* pointers[] = {&value..., nullptr};
          start(launch, reinterpret_cast<const void*>(kernel), pointers);
        },
        values);
#else
    start(launch, [&] { std::apply(kernel, values); });
#endif
  }

 protected:
#if defined(__CUDACC__)
  virtual void start(const Launch& launch, const void* kernel, void** arguments) = 0;
#else
  virtual void start(const Launch& launch, const std::function<void()>& thread) = 0;
#endif
};

}  // namespace openmoe::gpu
