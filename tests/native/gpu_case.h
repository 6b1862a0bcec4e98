// One grouped GEMM on an emulated GPU with random numbers, and the same in f64 from the plain matrices: what the tests of
// the kernels and the mutation suite run.
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
  std::string error;            // of the emulator, or what is wrong with the output; empty when all is well
  std::vector<uint16_t> out;    // the valid rows, [rows, out_features]
  double relative_error = 0;    // L2
};

namespace detail {

struct Matrices {
  int num_rows = 0, weight_rows;
  std::vector<int32_t> offsets{0};
  std::vector<uint16_t> x, weight;  // bf16: [num_rows, in], [experts, weight_rows, in]

  explicit Matrices(const GemmCase& c) : weight_rows(c.swiglu ? 3 * c.out_features : c.out_features) {
    for (int rows : c.rows) offsets.push_back(num_rows += rows);
    std::mt19937 random(7);  // the same numbers for every seed of the machine
    std::normal_distribution<float> normal;
    x.resize(size_t(num_rows) * c.in_features);
    weight.resize(c.rows.size() * weight_rows * c.in_features);
    for (uint16_t& v : x) v = to_bf16(normal(random)).bits;
    const float scale = 1 / std::sqrt(static_cast<float>(c.in_features));
    for (uint16_t& v : weight) v = to_bf16(normal(random) * scale).bits;
  }

  double dot(const GemmCase& c, int row, int expert, int out) const {
    const uint16_t* a = &x[size_t(row) * c.in_features];
    const uint16_t* b = &weight[(size_t(expert) * weight_rows + out) * c.in_features];
    double sum = 0;
    for (int k = 0; k < c.in_features; ++k) sum += double{to_float({a[k]})} * to_float({b[k]});
    return sum;
  }

  double expected(const GemmCase& c, int row, int expert, int out) const {
    if (!c.swiglu) return dot(c, row, expert, out);
    const double a = dot(c, row, expert, out), b = dot(c, row, expert, out + c.out_features);
    return a * (b / (1 + std::exp(-b))) * dot(c, row, expert, out + 2 * c.out_features);
  }
};

// Panel row of every row: experts start at multiples of 8.
inline std::vector<int64_t> panel_positions(const GemmCase& c) {
  std::vector<int64_t> at;
  int64_t start = 0;
  for (int rows : c.rows) {
    for (int r = 0; r < rows; ++r) at.push_back(start + r);
    start += round_up(rows, kGroupRows);
  }
  return at;
}

template <class T>
void* upload(Machine& machine, const std::vector<T>& data) {
  void* to = machine.allocate(data.size() * sizeof(T));
  machine.write(to, data.data(), data.size() * sizeof(T));
  return to;
}

inline void launch(const GemmCase& c, int num_rows, const void* x, const void* w, const void* offsets, void* out,
                   Stream& stream) {
  const int experts = static_cast<int>(c.rows.size());
  if (c.swiglu)
    grouped_gemm_swiglu({{{x, DType::bf16}},
                         {{w, DType::bf16}},
                         {offsets, DType::i32},
                         {{out, DType::bf16}},
                         num_rows,
                         experts,
                         c.out_features,
                         c.in_features},
                        stream);
  else
    grouped_gemm({{{x, DType::bf16}},
                  {{w, DType::bf16}},
                  {offsets, DType::i32},
                  {{out, DType::bf16}},
                  num_rows,
                  experts,
                  c.out_features,
                  c.in_features},
                 stream);
}

}  // namespace detail

inline GemmResult run_gemm(const GemmCase& c) {
  using namespace detail;
  const Matrices m(c);
  const int experts = static_cast<int>(c.rows.size()), num_rows = m.num_rows + c.spare_rows;
  const WeightImage image =
      weight_image(c.swiglu ? WeightKind::gate_up : WeightKind::plain, m.weight_rows, c.in_features);
  std::vector<std::byte> weight(experts * image.expert_bytes());
  for (int e = 0; e < experts; ++e)
    for (int out = 0; out < m.weight_rows; ++out)
      for (int k = 0; k < c.in_features; ++k)
        std::memcpy(&weight[weight_offset(image, m.weight_rows, e, out, k)],
                    &m.weight[(size_t(e) * m.weight_rows + out) * c.in_features + k], 2);
  // Rows that belong to no row of x are NaN, the features past the last of a real row zero.
  const int64_t rows = panel_rows(num_rows, experts);
  const std::vector<int64_t> at = panel_positions(c);
  std::vector<std::byte> x(panel_bytes(num_rows, experts, c.in_features), std::byte{0xff});
  for (int r = 0; r < m.num_rows; ++r)
    for (int k = 0; k < round_up(c.in_features, kBlockFeatures); ++k) {
      const uint16_t value = k < c.in_features ? m.x[size_t(r) * c.in_features + k] : 0;
      std::memcpy(&x[panel_offset(rows, at[r], k)], &value, 2);
    }

  GemmResult result;
  std::vector<std::byte> out(panel_bytes(num_rows, experts, c.out_features));
  try {
    Machine machine({.arch = c.arch, .num_sms = c.num_sms, .seed = c.seed});
    MachineStream stream(machine);
    stream.invariant = c.invariant;
    void* device_out = machine.allocate(out.size());
    launch(c, num_rows, upload(machine, x), upload(machine, weight), upload(machine, m.offsets), device_out, stream);
    machine.read(out.data(), device_out, out.size());
  } catch (const std::exception& error) {
    result.error = error.what();
    return result;
  }

  double error = 0, norm = 0;
  for (int r = 0, e = 0; r < m.num_rows; ++r) {
    while (r >= m.offsets[e + 1]) ++e;
    for (int f = 0; f < round_up(c.out_features, kBlockFeatures); ++f) {
      uint16_t bits;
      std::memcpy(&bits, &out[panel_offset(rows, at[r], f)], 2);
      const double got = to_float({bits});
      if (f >= c.out_features) {
        if (got != 0) result.error = "a feature of the padding is not zero";
        continue;
      }
      result.out.push_back(bits);
      const double want = m.expected(c, r, e, f);
      error += (got - want) * (got - want);
      norm += want * want;
    }
  }
  result.relative_error = norm > 0 ? std::sqrt(error / norm) : 0;
  // bf16 rounds by up to 2^-9 and about a third of that on average.
  if (!(result.relative_error < 3e-3)) result.error = "relative error " + std::to_string(result.relative_error);
  return result;
}

}  // namespace openmoe::gpu
