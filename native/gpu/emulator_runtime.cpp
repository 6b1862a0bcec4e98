// The module openmoe_cuda_emulator: two devices made of gpu/emulator/, 0 with the Hopper kernels, 1 with those of
// sm_80. A test back end: it is right, not fast.
#include <chrono>
#include <mutex>

#include "gpu/emulator/machine.h"
#include "gpu/launch_table.h"

namespace openmoe::gpu {

namespace {

constexpr int kDevices = 2;
constexpr size_t kMemory = size_t{1} << 30;

MachineOptions machine_options(int index, uint64_t seed) {
  return {.arch = index == 0 ? 90 : 80, .num_sms = index == 0 ? 4 : 3, .seed = seed, .memory_bytes = kMemory};
}

// Memory may be asked for while a kernel runs: one lock around everything.
class EmulatorRuntime final : public Runtime {
 public:
  EmulatorRuntime(int index, const RuntimeOptions& options)
      : machine_(machine_options(index, options.seed)), stream_(machine_) {
    stream_.invariant = options.batch_invariant;
  }

  DeviceInfo info() noexcept override {
    const std::lock_guard lock(mutex_);
    DeviceInfo info = describe(machine_.options());
    info.free_bytes = info.total_bytes - machine_.used_bytes();
    return info;
  }
  static DeviceInfo describe(const MachineOptions& options) {
    return {.description = "emulated GPU, sm_" + std::to_string(options.arch),
            .capability = options.arch,
            .num_sms = options.num_sms,
            .total_bytes = options.memory_bytes};
  }

  Status allocate(size_t bytes, void** address) noexcept override {
    return locked([&] {
      *address = machine_.allocate(bytes);
      if (!*address) throw Error("OUT_OF_MEMORY", "");
    });
  }
  void free(void* address) noexcept override {
    (void)locked([&] { machine_.free(address); });
  }
  Status copy_in(void* to, const void* from, size_t bytes) noexcept override {
    return locked([&] { machine_.write(to, from, bytes); });
  }
  Status copy_out(void* to, const void* from, size_t bytes) noexcept override {
    return locked([&] { machine_.read(to, from, bytes); });
  }
  Status fill(void* to, int byte, size_t bytes) noexcept override {
    return locked([&] { machine_.fill(to, byte, bytes); });
  }
  bool is_for_tests() const noexcept override { return true; }
  Status pack(const PackWeights& args) noexcept override {
    return locked([&] {
      pack_weights(args, stream_);
      machine_.synchronize();
    });
  }

  Status begin_run(int, bool) noexcept override {
    faulty_ = -1;
    times_.clear();
    return {};
  }
  Status launch(std::string_view op, const void* args, int record) noexcept override {
    return locked([&] {
      const auto start = std::chrono::steady_clock::now();
      launch_op(op, args, stream_);
      times_.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
      int32_t fault = 0;
      machine_.read(&fault, stream_.fault(), sizeof fault);
      if (fault && faulty_ < 0) faulty_ = record;
      machine_.fill(stream_.fault(), 0, sizeof fault);
    });
  }
  Status end_run(int* faulty, std::vector<double>* times) noexcept override {
    *faulty = faulty_;
    return locked([&] {
      if (times) times->insert(times->end(), times_.begin(), times_.end());
      machine_.synchronize();
    });
  }
  Status synchronize() noexcept override {
    return locked([&] { machine_.synchronize(); });
  }

 private:
  template <class Body>
  Status locked(Body&& body) noexcept {
    const std::lock_guard lock(mutex_);
    return guarded(body);
  }

  std::mutex mutex_;
  Machine machine_;
  MachineStream stream_;
  std::vector<double> times_;
  int faulty_ = -1;
};

Status count(int* devices) noexcept {
  *devices = kDevices;
  return {};
}

Status describe(int index, DeviceInfo* info) noexcept {
  return guarded([&] { *info = EmulatorRuntime::describe(machine_options(index, 1)); });
}

Status open(int index, const RuntimeOptions& options, Runtime** runtime) noexcept {
  return guarded([&] { *runtime = new EmulatorRuntime(index, options); });
}

constexpr Module kModule = {contract_stamp(), count, describe, open};

}  // namespace

}  // namespace openmoe::gpu

extern "C" __attribute__((visibility("default"))) const openmoe::gpu::Module* openmoe_gpu_module() {
  return &openmoe::gpu::kModule;
}
