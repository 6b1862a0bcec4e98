// One grouped GEMM on an emulated GPU with random numbers, and the same in f64 from the plain matrices: what the tests
// of the kernels and the mutation suite run.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gpu/emulator/machine.h"
#include "gpu/tile_image.h"
#include "ops/grouped_gemm.h"
#include "ops/grouped_gemm_swiglu.h"
#include "support/bf16.h"

namespace openmoe::gpu {

void grouped_gemm(const GroupedGemm& a, Stream& stream);
void grouped_gemm_swiglu(const GroupedGemmSwiglu& a, Stream& stream);

struct GemmCase {
  const char* name;
  bool swiglu;
  std::vector<int> rows;  // of each expert
  int in_features, out_features;
  int arch = 90;
  uint64_t seed = 1;
  bool invariant = false;
  int num_sms = 4;
  int spare_rows = 0;  // num_rows beyond the last expert's: dropped choices
};

struct GemmResult {
  std::string error;          // of the emulator, or what is wrong with the output; empty when all is well
  std::vector<uint16_t> out;  // the valid rows, [rows, out_features]
  double relative_error = 0;  // L2
};

class GemmRun {
 public:
  explicit GemmRun(const GemmCase& c) : case_(c), weight_rows_(c.swiglu ? 3 * c.out_features : c.out_features) {
    for (int rows : c.rows) offsets_.push_back(offsets_.back() + rows);
    std::mt19937 random(7), more(8);  // the same numbers for every seed of the machine and whatever rows follow
    std::normal_distribution<float> normal, weights;
    x_.resize(size_t(offsets_.back()) * c.in_features);
    for (uint16_t& v : x_) v = to_bf16(normal(random)).bits;
    const float scale = 1 / std::sqrt(static_cast<float>(c.in_features));
    for (int rows : c.rows) {
      weight_.emplace_back(rows == 0 ? 0 : size_t(weight_rows_) * c.in_features);  // nobody may read an idle expert's
      for (uint16_t& v : weight_.back()) v = to_bf16(weights(more) * scale).bits;
    }
  }

  GemmResult run() {
    GemmResult result;
    try {
      Machine machine({.arch = case_.arch, .num_sms = case_.num_sms, .seed = case_.seed, .memory_bytes = kMemory});
      MachineStream stream(machine);
      stream.invariant = case_.invariant;
      const int64_t bytes = panel_bytes(num_rows(), num_experts(), case_.out_features);
      auto* out = static_cast<std::byte*>(machine.allocate(bytes));
      void* offsets = machine.allocate(offsets_.size() * sizeof(int32_t));
      machine.write(offsets, offsets_.data(), offsets_.size() * sizeof(int32_t));
      launch(upload_x(machine), upload_weight(machine), offsets, out, stream);
      check(machine, out, result);
    } catch (const std::exception& error) {
      result.error = error.what();
    }
    return result;
  }

 private:
  static constexpr size_t kMemory = size_t{1} << 36;  // of addresses; only what is touched takes memory

  int num_experts() const { return static_cast<int>(case_.rows.size()); }
  int num_rows() const { return offsets_.back() + case_.spare_rows; }
  int64_t rows_of_panel() const { return panel_rows(num_rows(), num_experts()); }

  // Calls f(row, expert, panel row): experts start at multiples of 8.
  template <class F>
  void each_row(F f) const {
    int64_t start = 0;
    for (int e = 0; e < num_experts(); start += round_up(case_.rows[e++], kGroupRows))
      for (int r = 0; r < case_.rows[e]; ++r) f(offsets_[e] + r, e, start + r);
  }

  // The features past the last of a real row are zero; rows that belong to no row of x stay as allocated, NaN.
  std::byte* upload_x(Machine& machine) const {
    auto* to = static_cast<std::byte*>(machine.allocate(panel_bytes(num_rows(), num_experts(), case_.in_features)));
    each_row([&](int row, int, int64_t at) {
      for (int k = 0; k < case_.in_features; k += kBlockFeatures) {
        uint16_t block[kBlockFeatures] = {};
        for (int i = 0; i < kBlockFeatures && k + i < case_.in_features; ++i)
          block[swizzled(at % 8, i) % kRowBytes / 2] = x_[size_t(row) * case_.in_features + k + i];
        machine.write(to + k / kBlockFeatures * rows_of_panel() * kRowBytes + at * kRowBytes, block, sizeof block);
      }
    });
    return to;
  }

  std::byte* upload_weight(Machine& machine) const {
    const WeightImage image =
        weight_image(case_.swiglu ? WeightKind::gate_up : WeightKind::plain, weight_rows_, case_.in_features);
    auto* to = static_cast<std::byte*>(machine.allocate(num_experts() * image.expert_bytes()));
    for (int e = 0; e < num_experts(); ++e) {
      if (weight_[e].empty()) continue;
      std::vector<std::byte> packed(image.expert_bytes());
      for (int out = 0; out < weight_rows_; ++out)
        for (int k = 0; k < case_.in_features; ++k)
          std::memcpy(&packed[weight_offset(image, weight_rows_, 0, out, k)],
                      &weight_[e][size_t(out) * case_.in_features + k], 2);
      machine.write(to + e * image.expert_bytes(), packed.data(), packed.size());
    }
    return to;
  }

  void launch(const void* x, const void* w, const void* offsets, void* out, Stream& stream) const {
    const PanelIn panel{{x, DType::bf16}};
    const Matrix weight{{w, DType::bf16}};
    const In expert_offsets{offsets, DType::i32};
    const PanelOut target{{out, DType::bf16}};
    const int n = num_rows(), e = num_experts();
    if (case_.swiglu)
      grouped_gemm_swiglu({panel, weight, expert_offsets, target, n, e, case_.out_features, case_.in_features}, stream);
    else
      grouped_gemm({panel, weight, expert_offsets, target, n, e, case_.out_features, case_.in_features}, stream);
  }

  double dot(int row, int expert, int out) const {
    const uint16_t* a = &x_[size_t(row) * case_.in_features];
    const uint16_t* b = &weight_[expert][size_t(out) * case_.in_features];
    double sum = 0;
    for (int k = 0; k < case_.in_features; ++k) sum += double{to_float({a[k]})} * to_float({b[k]});
    return sum;
  }

  double expected(int row, int expert, int out) const {
    if (!case_.swiglu) return dot(row, expert, out);
    const double a = dot(row, expert, out), b = dot(row, expert, out + case_.out_features);
    return a * (b / (1 + std::exp(-b))) * dot(row, expert, out + 2 * case_.out_features);
  }

  void check(Machine& machine, const std::byte* out, GemmResult& result) const {
    double error = 0, norm = 0;
    each_row([&](int row, int expert, int64_t at) {
      for (int f = 0; f < round_up(case_.out_features, kBlockFeatures); ++f) {
        uint16_t bits;
        machine.read(&bits, out + panel_offset(rows_of_panel(), at, f), 2);
        const double got = to_float({bits});
        if (f >= case_.out_features) {
          if (got != 0) result.error = "a feature of the padding is not zero";
          continue;
        }
        result.out.push_back(bits);
        const double want = expected(row, expert, f);
        error += (got - want) * (got - want);
        norm += want * want;
      }
    });
    result.relative_error = norm > 0 ? std::sqrt(error / norm) : 0;
    // bf16 rounds by up to 2^-9, by about 0.4 of that in the mean square.
    if (!(result.relative_error < 3e-3)) result.error = "relative error " + std::to_string(result.relative_error);
  }

  const GemmCase case_;
  const int weight_rows_;
  std::vector<int32_t> offsets_{0};
  std::vector<uint16_t> x_;                    // bf16 [num_rows, in_features]
  std::vector<std::vector<uint16_t>> weight_;  // of each expert, bf16 [weight_rows, in_features]
};

inline GemmResult run_gemm(const GemmCase& c) { return GemmRun(c).run(); }

}  // namespace openmoe::gpu
