// Times the MoE layer and each of its kernels on a GPU: docs/cuda.md, 'Measuring on a GPU'. The same source built for
// the emulator (moe_bench_emulated) proves that the program is right; its times mean nothing.
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <sstream>

#include "check_layer.h"
#include "roofs.h"

namespace openmoe::gpu::bench {
namespace {

constexpr int kNothingMeasured = 77;
constexpr int kWarmUps = 20, kSamples = 100, kFewestSamples = 10;
// Activations rotate through this many sets, so that none is found in the L2 cache.
constexpr int kSets = BareDevice::kEmulated ? 2 : 8;

struct Options {
  const Shape* shape = &kShapes[1];
  std::vector<int> tokens = {1, 4, 16, 64, 256, 1024, 4096, 16384};
  double seconds = 120;     // for everything
  double matmul_roof = 0;   // FLOP/s of a large bf16 product through a library, 0: not known
  std::string json;         // file
  int arch = 90;            // 80: the kernels for devices before Hopper, which a Hopper runs too
  bool check_only = false;  // for compute-sanitizer
  bool print_random = false;
};

struct Timing {
  double p10, median, p90;  // microseconds
  int samples;
};

struct Roofs {
  double read = 0, copy = 0, matmul = 0;
};

// Captured once, replayed often: `body` launches `repeats` times what is timed. The mean of the repeats is one sample.
Timing time(BareDevice& device, int repeats, double budget_us, const std::function<void()>& body) {
  body();  // grows the workspace, which a capture cannot
  device.synchronize();
  device.capture(body);
  device.mark(0);
  device.replay();
  device.mark(1);
  device.synchronize();
  const double once = std::max(1.0, device.microseconds(0, 1));
  const int fit = static_cast<int>(std::min(budget_us / once, 1e6));
  const int samples = BareDevice::kEmulated ? 1 : std::clamp(fit, kFewestSamples, kSamples);
  for (int i = 0; i < std::min(kWarmUps, samples); ++i) device.replay();
  for (int i = 0; i < samples; ++i) {
    device.mark(2 * i);
    device.replay();
    device.mark(2 * i + 1);
  }
  device.synchronize();
  std::vector<double> us;
  for (int i = 0; i < samples; ++i) us.push_back(device.microseconds(2 * i, 2 * i + 1) / repeats);
  std::sort(us.begin(), us.end());
  const auto quantile = [&](double q) { return us[static_cast<size_t>(q * (samples - 1) + 0.5)]; };
  return {quantile(0.1), quantile(0.5), quantile(0.9), samples};
}

Roofs measure_roofs(BareDevice& device) {
  const size_t most = BareDevice::kEmulated ? size_t{1} << 20 : size_t{4} << 30;
  const int64_t count = std::min(most, device.free_bytes() / 4) / sizeof(Vec16);
  const int64_t grid = BareDevice::kEmulated ? 4 : 8 * device.stream().num_sms();
  DeviceArray<Vec16> from(device, count), to(device, count);
  DeviceArray<uint32_t> sums(device, grid * kRoofThreads);
  fill_bf16(device.stream(), reinterpret_cast<uint16_t*>(from.data), count * 8, 1, 1.0f);
  const double bytes = static_cast<double>(from.bytes()), budget = 2e6;
  Roofs roofs;
  const auto* source = static_cast<const Vec16*>(from.data);
  roofs.read =
      bytes /
      time(device, 1, budget,
           [&] { device.stream().launch({"read", grid, kRoofThreads}, read_kernel, source, count, sums.data); })
          .median *
      1e6;
  roofs.copy = 2 * bytes /
               time(device, 1, budget,
                    [&] { device.stream().launch({"copy", grid, kRoofThreads}, copy_kernel, source, count, to.data); })
                   .median *
               1e6;
  return roofs;
}

class Report {
 public:
  Report(const Roofs& roofs, const Shape& shape) : roofs_(roofs), shape_(shape) {}

  void add(const Layer& layer, Part part, Routing routing, double experts, int max_rows, const Timing& t) {
    const auto [bytes, flops, copies] = layer.work(part, experts);
    const double bandwidth = copies ? roofs_.copy : roofs_.read;
    // Without a measured product, 200 FLOP/B is about where a Hopper stops being memory-bound.
    const double ridge = roofs_.matmul > 0 ? roofs_.matmul / bandwidth : 200;
    const bool compute = flops / bytes > ridge;
    const double roof = compute ? roofs_.matmul : bandwidth, rate = (compute ? flops : bytes) / t.median * 1e6;
    const int part_index = static_cast<int>(part), routing_index = static_cast<int>(routing);
    char text[1024], fraction[32] = "null";
    if (roof > 0) std::snprintf(fraction, sizeof fraction, "%.4f", rate / roof);
    std::snprintf(text, sizeof text,
                  "{\"name\":\"%s\",\"backend\":\"cuda\",\"shape\":\"%s\",\"dtype\":\"bf16\",\"tokens\":%d,\"routing\":"
                  "\"%s\",\"distinctExperts\":%.2f,\"maxExpertRows\":%d,\"medianUs\":%.3f,\"p10Us\":%.3f,\"p90Us\":"
                  "%.3f,\"samples\":%d,\"bytes\":%.0f,\"flops\":%.0f,\"bound\":\"%s\",\"roof\":%.4g,\"fraction\":%s}",
                  kPartNames[part_index], shape_.name, layer.num_tokens, kRoutingNames[routing_index], experts,
                  max_rows, t.median, t.p10, t.p90, t.samples, bytes, flops, compute ? "compute" : "memory", roof,
                  fraction);
    rows_ += (rows_.empty() ? "  " : ",\n  ") + std::string(text);
    std::printf("%-20s T=%-6d %-10s d=%5.1f max=%-6d %10.1f us (p10 %.1f, p90 %.1f, n=%d) %8.2f %s  %s of %s roof\n",
                kPartNames[part_index], layer.num_tokens, kRoutingNames[routing_index], experts, max_rows, t.median,
                t.p10, t.p90, t.samples, rate / 1e12, compute ? "TFLOP/s" : "TB/s", fraction,
                compute  ? "matmul"
                : copies ? "copy"
                         : "read");
    std::fflush(stdout);
  }

  bool write(const std::string& file, const BareDevice& device, const std::string& problems) const {
    FILE* f = std::fopen(file.c_str(), "w");
    if (!f) return false;
    std::fprintf(f,
                 "{\"schema\":1,\"device\":\"%s\",\"emulated\":%s,\"driver\":%d,\"sets\":%d,\"roofs\":{\"read\":%.5g,"
                 "\"copy\":%.5g,\"matmul\":%s},\"problems\":[%s],\"results\":[\n%s\n]}\n",
                 device.name().c_str(), BareDevice::kEmulated ? "true" : "false", device.driver(), kSets, roofs_.read,
                 roofs_.copy, roofs_.matmul > 0 ? std::to_string(roofs_.matmul).c_str() : "null", problems.c_str(),
                 rows_.c_str());
    return std::fclose(f) == 0;
  }

 private:
  const Roofs roofs_;
  const Shape& shape_;
  std::string rows_;
};

class Bench {
 public:
  Bench(BareDevice& device, const Options& options)
      : device_(device),
        options_(options),
        roofs_(options.check_only ? Roofs{} : measure_roofs(device)),
        report_(with_matmul(), *options.shape),
        weights_(device, *options.shape) {
    if (options.check_only) return;
    std::printf("%s: read %.3f TB/s, copy %.3f TB/s, matmul %s\n", device.name().c_str(), roofs_.read / 1e12,
                roofs_.copy / 1e12,
                roofs_.matmul > 0 ? (std::to_string(roofs_.matmul / 1e12) + " TFLOP/s").c_str() : "not measured");
  }

  int run() {
    for (int tokens : options_.tokens) {
      for (Routing routing : {Routing::uniform, Routing::zipf, Routing::one}) {
        try {
          time_case(tokens, routing);
        } catch (const std::exception& error) {
          fail(tokens, routing, error.what());
        }
      }
      // Written as it grows: what was measured before a crash or a time limit is kept.
      if (!options_.json.empty() && !report_.write(options_.json, device_, problems_)) {
        std::fprintf(stderr, "%s cannot be written\n", options_.json.c_str());
        return 1;
      }
    }
    return problems_.empty() ? 0 : 1;
  }

 private:
  Roofs& with_matmul() {
    roofs_.matmul = options_.matmul_roof;
    return roofs_;
  }

  void time_case(int tokens, Routing routing) {
    std::vector<std::unique_ptr<Activations>> sets;
    for (uint32_t set = 0; set < kSets; ++set)
      sets.push_back(std::make_unique<Activations>(device_, *options_.shape, tokens, routing, set));
    Layer layer(device_, *options_.shape, weights_, tokens);
    double experts = 0;
    int max_rows = 0;
    for (auto& set : sets) {
      experts += static_cast<double>(set->distinct_experts()) / kSets;
      max_rows = std::max(max_rows, set->max_expert_rows(options_.shape->num_experts));
      set->poison();
      layer.launch(Part::layer, *set);
    }
    if (const std::string wrong = check(device_, layer, *sets[0], 0); !wrong.empty())
      return fail(tokens, routing, wrong);
    if (options_.check_only) {
      std::printf("ok     %s, T=%d, %s\n", options_.shape->name, tokens, kRoutingNames[static_cast<int>(routing)]);
      return;
    }
    // A case takes its share of the time; the layer a third of that, like its two GEMMs together.
    const double share = options_.seconds * 1e6 / (static_cast<double>(options_.tokens.size()) * 3 * 9);
    for (Part part : {Part::layer, Part::router, Part::routing, Part::permute, Part::grouped_gemm_swiglu,
                      Part::grouped_gemm, Part::unpermute}) {
      const double budget = part == Part::layer || part == Part::grouped_gemm_swiglu ? 2 * share : share;
      const Timing timing = time(device_, kSets, budget, [&] {
        for (auto& set : sets) layer.launch(part, *set);
      });
      report_.add(layer, part, routing, experts, max_rows, timing);
    }
  }

  void fail(int tokens, Routing routing, const std::string& what) {
    const std::string problem = std::string(options_.shape->name) + ", T=" + std::to_string(tokens) + ", " +
                                kRoutingNames[static_cast<int>(routing)] + ": " + what;
    std::printf("WRONG  %s\n", problem.c_str());
    std::string quoted;
    for (char c : problem) quoted += c == '"' || c == '\\' ? '\'' : c;
    problems_ += (problems_.empty() ? "\"" : ",\"") + quoted + "\"";
  }

  BareDevice& device_;
  const Options& options_;
  Roofs roofs_;
  Report report_;
  Weights weights_;
  std::string problems_;
};

constexpr const char* kUsage =
    "moe_bench [--shape tiny|8b|34b] [--tokens 1,4,...] [--seconds N] [--matmul-roof FLOPS] [--json FILE]\n"
    "          [--arch 80|90]     which kernels; 80 runs on a Hopper too\n"
    "          [--check-only]     right or wrong, no times: for compute-sanitizer\n"
    "          [--print-random]   a few numbers of the hash generator, for the test that compares languages\n";

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--print-random" || name == "--check-only") {
      (name == "--check-only" ? options.check_only : options.print_random) = true;
      continue;
    }
    if (++i == argc) return {};
    const std::string value = argv[i];
    if (name == "--shape") {
      options.shape = nullptr;
      for (const Shape& shape : kShapes)
        if (value == shape.name) options.shape = &shape;
      if (!options.shape) return {};
    } else if (name == "--tokens") {
      options.tokens.clear();
      std::istringstream list(value);
      for (std::string item; std::getline(list, item, ',');) options.tokens.push_back(std::atoi(item.c_str()));
      for (int tokens : options.tokens)
        if (tokens < 1 || tokens > 1 << 20) return {};
    } else if (name == "--seconds") {
      options.seconds = std::atof(value.c_str());
    } else if (name == "--matmul-roof") {
      options.matmul_roof = std::atof(value.c_str());
    } else if (name == "--arch" && (value == "80" || value == "90")) {
      options.arch = std::atoi(value.c_str());
    } else if (name == "--json") {
      options.json = value;
    } else {
      return {};
    }
  }
  return options;
}

void print_random() {
  for (uint32_t seed : {2u, 1000u, 10031u})
    for (uint32_t i : {0u, 1u, 4095u, 4000000000u})
      std::printf("normal %u %u %08x %08x\n", seed, i,
                  __builtin_bit_cast(uint32_t, random_normal(seed, i, kShapes[1].in_scale())),
                  to_bf16(random_normal(seed, i, kShapes[1].in_scale())).bits);
  for (Routing routing : {Routing::uniform, Routing::zipf, Routing::one}) {
    std::printf("ids %s", kRoutingNames[static_cast<int>(routing)]);
    for (int32_t id : random_ids(routing, 24, 32, kIdSeed)) std::printf(" %d", id);
    std::printf("\n");
  }
}

int main(int argc, char** argv) {
  const std::optional<Options> options = parse(argc, argv);
  if (!options) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  if (options->print_random) {
    print_random();
    return 0;
  }
  if (const std::string why = BareDevice::missing(); !why.empty()) {
    std::printf("no device: %s\n", why.c_str());
    return kNothingMeasured;
  }
  try {
    BareDevice device({options->arch});
    return Bench(device, *options).run();
  } catch (const std::exception& error) {
    std::printf("WRONG  %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace openmoe::gpu::bench

int main(int argc, char** argv) { return openmoe::gpu::bench::main(argc, argv); }
