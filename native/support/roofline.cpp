#include "support/roofline.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <time.h>
#endif

#include "support/error.h"
#include "support/roofline_kernels.h"

namespace openmoe {

namespace {

constexpr size_t kBufferBytes = size_t{1} << 30;  // far beyond any cache: a slice comes round to cold data
constexpr size_t kSliceBytes = size_t{32} << 20;
constexpr int64_t kFmaSteps = 400000;
constexpr size_t kMinClean = 5;
constexpr double kPatience = 5;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// CPU time of this thread; without such a clock every slice counts as clean.
double cpu_time() {
#if defined(__linux__)
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return now();
#endif
}

// Threads that start a slice together and say whether they had their cores throughout.
class Team {
 public:
  using Body = std::function<void(int thread)>;

  explicit Team(int num_threads) : spans_(num_threads) {
    for (int t = 1; t < num_threads; ++t)
      threads_.emplace_back([this, t] {
        for (int64_t slice = 1;; ++slice) {
          if (!run_slice(t, slice)) return;
        }
      });
  }
  ~Team() {
    body_ = nullptr;
    start_.store(start_ + 1);
    for (auto& thread : threads_) thread.join();
  }

  int size() const { return static_cast<int>(spans_.size()); }

  // Seconds from the common start to the last end.
  struct Slice {
    double seconds;
    bool clean;
  };
  Slice run(const Body& body) {
    body_ = &body;
    ready_.store(0);
    finished_.store(0);
    const int64_t slice = start_ + 1;
    start_.store(slice);
    run_slice(0, slice);
    while (finished_ < size()) std::this_thread::yield();
    double begin = spans_[0].begin, end = 0;
    for (const Span& s : spans_) begin = std::min(begin, s.begin), end = std::max(end, s.end);
    bool clean = true;
    for (const Span& s : spans_)
      clean = clean && s.cpu >= 0.985 * (s.end - s.begin) && s.begin - begin <= 0.02 * (end - begin);
    return {end - begin, clean};
  }

 private:
  struct alignas(64) Span {
    double begin, end, cpu;
  };

  bool run_slice(int thread, int64_t slice) {
    while (start_ < slice) std::this_thread::yield();
    if (!body_) return false;
    // Nobody begins before all are on a core. Yields, so that the last one finds one.
    for (++ready_; ready_ < size();) std::this_thread::yield();
    Span& span = spans_[thread];
    const double cpu = cpu_time();
    span.begin = now();
    (*body_)(thread);
    span.end = now();
    span.cpu = cpu_time() - cpu;
    ++finished_;
    return true;
  }

  std::vector<Span> spans_;
  const Body* body_ = nullptr;
  std::atomic<int64_t> start_{0};
  std::atomic<int> ready_{0}, finished_{0};
  std::vector<std::thread> threads_;
};

std::byte* map_buffer() {
#if defined(__linux__)
  void* p = mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) p = nullptr;
  if (p) madvise(p, kBufferBytes, MADV_HUGEPAGE);
#else
  void* p = std::aligned_alloc(4096, kBufferBytes);
#endif
  if (!p) throw Error("OUT_OF_MEMORY", "The memory bandwidth is measured over 1 GiB, which could not be allocated.");
  return static_cast<std::byte*>(p);
}

void unmap_buffer(std::byte* p) {
#if defined(__linux__)
  munmap(p, kBufferBytes);
#else
  std::free(p);
#endif
}

// Random, because pages of equal bytes may be merged by the host.
void fill(std::byte* p, Team& team) {
  team.run([&](int thread) {
    const size_t part = kBufferBytes / 8 / team.size();
    auto* words = reinterpret_cast<uint64_t*>(p) + thread * part;
    uint64_t x = 0x9e3779b97f4a7c15u * (thread + 1);
    for (size_t i = 0; i < part; ++i) {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      words[i] = x;
    }
  });
}

double quantile(std::vector<double>& sorted, double q) {
  return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))];
}

// The median of the clean slices. Without enough of them the best slice: a roof must not be flattered by a busy
// machine.
Roof summarise(std::vector<double> clean, std::vector<double> all, const char* instructions) {
  std::sort(clean.begin(), clean.end());
  std::sort(all.begin(), all.end());
  const bool trusted = clean.size() >= kMinClean;
  return {trusted ? quantile(clean, 0.5) : all.back(), trusted ? clean.back() : all.back(),
          static_cast<int>(clean.size()), static_cast<int>(all.size()), instructions};
}

// `amount(slice)` bytes or FLOPs done by body(thread, slice).
template <class F>
Roof measure_slices(Team& team, double seconds, double amount, const char* instructions, F&& body) {
  std::vector<double> clean, all;
  const double start = now();
  // Longer where other work keeps taking the cores, but not for ever.
  const auto enough = [&] {
    const double spent = now() - start;
    return spent >= seconds && (clean.size() >= kMinClean || (spent >= kPatience * seconds && !all.empty()));
  };
  for (int64_t slice = 0; !enough(); ++slice) {
    const auto result = team.run([&](int thread) { body(thread, slice); });
    if (slice == 0) continue;  // wakes the clock
    all.push_back(amount / result.seconds);
    if (result.clean)
      clean.push_back(amount / result.seconds);
    else
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // let them have it
  }
  return summarise(std::move(clean), std::move(all), instructions);
}

}  // namespace

RoofMeter::RoofMeter(int num_threads, std::string isa) : num_threads_(num_threads), isa_(std::move(isa)) {}

RoofMeter::~RoofMeter() {
  if (memory_) unmap_buffer(memory_);
}

Roof RoofMeter::measure(RoofKind kind, double seconds) {
  const std::scoped_lock lock(mutex_);
  const Kernels k = kernels_of(isa_);
  Team team(num_threads_);
  const auto peak = [&](FmaKernel kernel, double flops, const char* name) {
    return measure_slices(team, seconds, flops * kFmaSteps * num_threads_, name,
                          [&](int, int64_t) { kernel(kFmaSteps); });
  };
  if (kind == RoofKind::f32) return peak(k.f32, k.f32_flops_per_step, k.f32_name);
  if (kind == RoofKind::bf16) return peak(k.bf16, k.bf16_flops_per_step, k.bf16_name);
  if (kind == RoofKind::int8) return peak(k.int8, k.int8_flops_per_step, k.int8_name);
  if (!memory_) {
    memory_ = map_buffer();
    fill(memory_, team);
  }
  const size_t share = kSliceBytes / num_threads_ / 4096 * 4096;
  const double bytes = static_cast<double>(share) * num_threads_;
  if (kind == RoofKind::copy) {
    constexpr size_t kHalf = kBufferBytes / 2;
    return measure_slices(team, seconds, 2 * bytes, k.memory_name, [&](int thread, int64_t slice) {
      std::byte* from = memory_ + slice % (kHalf / kSliceBytes) * kSliceBytes + thread * share;
      k.copy(from + kHalf, from, share);
    });
  }
  // How many streams the prefetchers like best depends on the CPU.
  Roof best{};
  for (const int streams : {1, 2, 4}) {
    const Roof roof = measure_slices(team, seconds / 3, bytes, k.memory_name, [&](int thread, int64_t slice) {
      k.read(memory_ + (next_slice_ + slice) % (kBufferBytes / kSliceBytes) * kSliceBytes + thread * share, share,
             streams);
    });
    next_slice_ += roof.slices + 1;
    if (roof.median > best.median) best = roof;
  }
  return best;
}

}  // namespace openmoe
