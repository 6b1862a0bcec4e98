#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#if defined(__linux__)
#include <sched.h>
#endif

#include "device/cpu.h"
#include "device/cpu_memory.h"
#include "device/device.h"
#include "matmul/panel.h"
#include "program/program.h"
#include "support/bf16.h"
#include "support/error.h"
#include "support/weight_loader.h"

namespace openmoe {

namespace {

Isa best_isa() {
#if defined(OPENMOE_X86_KERNELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  // Every CPU that has the first of the two has the second.
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) return Isa::avx512_bf16;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa choose_isa(const std::string& name) {
  const Isa best = best_isa();
  if (name.empty()) return best;
  for (int i = 0; i < kNumIsas; ++i) {
    if (name != kIsaNames[i]) continue;
    if (i > static_cast<int>(best))
      throw Error("DEVICE_UNAVAILABLE", "This CPU has no " + name + "; the best it has is " +
                                            std::string(kIsaNames[static_cast<int>(best)]) + ". Unset OPENMOE_ISA.");
    return static_cast<Isa>(i);
  }
  fail_arg("isa: '" + name + "' is unknown. Use portable, avx2, avx512 or avx512_bf16.");
}

// CPUs this process may run on, fewer where a container grants less CPU time, and one per core where cores have two
// threads: kernels saturate a core's vector units, a sibling only competes for them.
int default_threads() {
  int cpus = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &set)) continue;
      std::string siblings = std::to_string(cpu);
      std::ifstream topology("/sys/devices/system/cpu/cpu" + siblings + "/topology/thread_siblings_list");
      std::getline(topology, siblings);
      cores.insert(siblings);
    }
    if (!cores.empty()) cpus = static_cast<int>(cores.size());
  }
  std::ifstream quota("/sys/fs/cgroup/cpu.max");
  double limit = 0, period = 0;
  if (quota >> limit >> period && period > 0) cpus = std::min(cpus, std::max(1, static_cast<int>(limit / period)));
#endif
  return cpus;
}

// An empty tensor may have no address, which memcpy does not take even for nothing.
void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

class CpuDevice : public Device {
 public:
  CpuDevice(Isa isa, int num_threads) : isa_(isa), cpu_(num_threads) {}

  std::shared_ptr<Buffer> allocate(size_t bytes) override { return memory_.allocate(bytes); }
  void write(Buffer& to, size_t offset, const void* from, size_t bytes) override {
    copy_bytes(static_cast<std::byte*>(to.data()) + offset, from, bytes);
  }
  void read(const Buffer& from, size_t offset, void* to, size_t bytes) override {
    copy_bytes(to, static_cast<const std::byte*>(from.data()) + offset, bytes);
  }
  size_t matrix_bytes(const MatrixShape& m) const override {
    return panel_matrix_bytes(m.dtype, m.count, m.out_features, m.in_features);
  }
  DType panel_dtype() const override { return DType::f32; }
  size_t panel_bytes(int64_t num_rows, int64_t, int64_t features) const override {
    return static_cast<size_t>(num_rows) * features * sizeof(float);
  }
  bool supports(std::string_view) const override { return true; }
  std::string name() const override { return "cpu"; }
  void load(std::span<const LoadPart> parts, const std::atomic<bool>& stop) override {
    load_weights(cpu_, parts, stop);
  }
  void pack_matrix(const float* from, const MatrixTarget& target) override { openmoe::pack_matrix(cpu_, from, target); }
  void read_arena(size_t offset, void* to, size_t bytes) override {
    copy_bytes(to, static_cast<std::byte*>(arena_->data()) + offset, bytes);
  }
  void write_arena(const Program& program, size_t offset, const void* from, size_t bytes) override {
    reserve(program.arena_bytes);
    copy_bytes(static_cast<std::byte*>(arena_->data()) + offset, from, bytes);
  }

  void run(const Program& program, const RunOptions& options) override {
    reserve(program.arena_bytes);
    auto* arena = static_cast<std::byte*>(arena_->data());
    alignas(16) std::byte args[512];
    for (const Record& record : program.records) {
      if (options.stop && options.stop->load(std::memory_order_relaxed)) throw Error("ABORTED", "The run was stopped.");
      resolve_args(program, record, arena, args);
      using Clock = std::chrono::steady_clock;
      const auto start = options.microseconds ? Clock::now() : Clock::time_point();
      try {
        record.op->cpu[static_cast<int>(isa_)](args, cpu_);
      } catch (const Error& error) {
        throw Error(error.code, record.label + ": " + error.what());
      }
      if (options.microseconds)
        options.microseconds->push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
      if (options.check_finite) check_finite(record, args);
    }
  }

 private:
  void reserve(size_t bytes) {
    if (arena_ && arena_->bytes() >= bytes) return;
    arena_.reset();
    arena_ = allocate(bytes);
  }

  static void check_finite(const Record& record, const std::byte* args) {
    for (const Field& field : record.op->fields) {
      if (field.kind != FieldKind::out && field.kind != FieldKind::panel_out) continue;
      Out out;
      std::memcpy(&out, args + field.offset, sizeof out);
      if (!out || out.dtype != DType::f32) continue;
      auto dims = eval_dims(*record.op, parse_spec(field), args);
      if (field.kind == FieldKind::panel_out) dims[1] = 1;  // a panel is plain rows here
      int64_t count = 1;
      for (int64_t d : dims) count *= d;
      for (int64_t i = 0; i < count; ++i)
        if (!std::isfinite(out.as<float>()[i]))
          throw Error("NON_FINITE", record.label + ": " + field.name + "[" + std::to_string(i) + "] is " +
                                        std::to_string(out.as<float>()[i]));
    }
  }

  Isa isa_;
  Cpu cpu_;
  CpuMemory memory_;
  std::shared_ptr<Buffer> arena_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(const CpuOptions& options) {
  const int threads = options.num_threads > 0 ? options.num_threads : default_threads();
  if (threads > 1024) fail_arg("threads: " + std::to_string(threads) + " is more than 1024");
  return std::make_unique<CpuDevice>(choose_isa(options.isa), threads);
}

CpuInfo cpu_info() {
  CpuInfo info;
  for (int i = 0; i <= static_cast<int>(best_isa()); ++i) info.isas.emplace_back(kIsaNames[i]);
  info.default_threads = default_threads();
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    info.model_name = line.substr(std::min(line.find(": ") + 2, line.size()));
    break;
  }
  return info;
}

}  // namespace openmoe
