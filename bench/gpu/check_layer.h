// Is the layer right, before it is timed: nothing left unwritten, the same bits twice, and one token against f64 from
// the hash itself, not from what the device holds.
#pragma once

#include <thread>

#include "moe_layer.h"
#include "support/bf16.h"

namespace openmoe::gpu::bench {

constexpr double kMostRelativeError = 1e-2;  // of bf16 activations and weights

inline double through_bf16(double v) { return to_float(to_bf16(static_cast<float>(v))); }

// out[o] = sum over i of bf16(weight[o, i]) * x[i], the rows spread over the host's threads.
inline std::vector<double> product(const std::vector<double>& x, int out_features, uint32_t seed, float scale) {
  std::vector<double> out(out_features);
  const int in_features = static_cast<int>(x.size());
  const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::vector<std::thread> workers;
  for (int w = 0; w < threads; ++w)
    workers.emplace_back([&, w] {
      for (int o = w; o < out_features; o += threads) {
        double sum = 0;
        for (int i = 0; i < in_features; ++i)
          sum += x[i] * to_float(to_bf16(random_normal(seed, static_cast<uint32_t>(o) * in_features + i, scale)));
        out[o] = sum;
      }
    });
  for (std::thread& worker : workers) worker.join();
  return out;
}

// The layer's output for one token of set `set`, in f64.
inline std::vector<double> reference(const Shape& shape, const Activations& a, uint32_t set, int token) {
  const int d = shape.hidden_size, f = shape.intermediate_size;
  std::vector<double> x(d), out(d);
  for (int i = 0; i < d; ++i)
    x[i] = through_bf16(random_normal(kXSeed + set, static_cast<uint32_t>(token) * d + i, shape.x_scale()));
  for (int k = 0; k < kTopK; ++k) {
    const uint32_t expert = a.ids[token * kTopK + k];
    const std::vector<double> rows = product(x, 3 * f, kGateUpSeed + expert, shape.in_scale());
    std::vector<double> hidden(f);
    for (int i = 0; i < f; ++i) hidden[i] = rows[i] * rows[i + f] / (1 + std::exp(-rows[i + f])) * rows[i + 2 * f];
    const std::vector<double> y = product(hidden, d, kDownSeed + expert, shape.out_scale());
    const double weight = random_normal(kWeightSeed + set, token * kTopK + k, shape.x_scale());
    for (int i = 0; i < d; ++i) out[i] += weight * y[i];
  }
  return out;
}

// What is wrong, or empty.
inline std::string check(BareDevice& device, Layer& layer, Activations& a, uint32_t set) {
  std::vector<float> first;
  for (int run = 0; run < 2; ++run) {
    a.poison();
    layer.launch(Part::layer, a);
    device.synchronize();
    if (device.faulted()) return "an index was out of range";
    const std::vector<float> out = a.out.read();
    for (float v : out)
      if (!std::isfinite(v)) return "the output has a number that is not finite: written by nobody, or wrong";
    if (run == 1 && out != first) return "two runs gave different bits";
    first = out;
  }
  const int token = layer.num_tokens / 2, d = layer.shape.hidden_size;
  const std::vector<double> want = reference(layer.shape, a, set, token);
  double error = 0, norm = 0;
  for (int i = 0; i < d; ++i) {
    const double got = first[int64_t{token} * d + i];
    error += (got - want[i]) * (got - want[i]);
    norm += want[i] * want[i];
  }
  const double relative = std::sqrt(error / norm);
  return relative <= kMostRelativeError ? "" : "relative error " + std::to_string(relative);
}

}  // namespace openmoe::gpu::bench
