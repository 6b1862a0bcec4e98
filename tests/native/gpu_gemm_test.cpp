// The grouped GEMM kernels in the emulator: against f64, on both kernel paths and several schedules. With arguments,
// only the named parts run and the first failure ends it: what the mutation suite wants (tests/cuda/mutations.test.ts).
#include <algorithm>
#include <cstdlib>
#include <random>
#include <string_view>

#include "check.h"
#include "gpu_case.h"
#include "support/error.h"

namespace openmoe::gpu {
namespace {

using test::expect;

// Small enough for hundreds of runs, and together they take every path: all widths of all kernels, whole and split
// tiles, one and two consumers, idle experts, sizes that end inside a block, a ring that goes round several times.
const GemmCase kCases[] = {
    {"narrow swiglu", true, {1, 0, 12, 9, 0, 17, 33}, 640, 128, 90, 1, false, 3},
    {"narrow plain", false, {1, 0, 12, 9, 0, 17, 33}, 640, 192, 90, 1, false, 23},
    {"wide swiglu", true, {300, 0, 20}, 320, 128},
    {"wide plain", false, {270, 5, 200}, 320, 192},
    {"portable swiglu", true, {1, 0, 12, 33}, 320, 128, 80},
    {"portable plain", false, {1, 0, 12, 33}, 320, 192, 80},
    {"portable wide", false, {100, 0, 150}, 128, 64, 80},
    {"padded swiglu", true, {5, 0, 20}, 48, 40},
    {"padded plain", false, {5, 0, 20}, 80, 72},
    {"padded portable", true, {5, 0, 20}, 48, 40, 80},
    {"invariant", true, {1, 0, 12, 9}, 320, 64, 90, 1, true},
    {"dropped rows", false, {3, 4}, 64, 64, 90, 1, false, 4, 11},
    {"more SMs than work", true, {2}, 64, 64, 90, 1, false, 13},
    {"one SM", true, {2, 9}, 128, 192, 90, 1, false, 1},
};

void agrees_with_f64(uint64_t seeds) {
  for (GemmCase c : kCases) {
    std::vector<uint16_t> first;
    for (uint64_t seed = 1; seed <= seeds; ++seed) {
      c.seed = seed;
      const GemmResult result = run_gemm(c);
      expect(result.error.empty(), std::string(c.name) + ", seed " + std::to_string(seed) + ": " + result.error);
      if (seed == 1) first = result.out;
      expect(result.out == first, std::string(c.name) + " gives the same bits on every schedule");
    }
  }
}

// Shapes, distributions and machines nobody thought of.
void agrees_with_f64_at_random(int count) {
  std::mt19937 random(11);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  for (int i = 0; i < count; ++i) {
    const bool many = below(4) == 0;  // rows an expert, so that the wide kernel has its turn
    std::vector<int> rows(1 + below(many ? 3 : 9));
    for (int& n : rows) n = below(3) == 0 ? 0 : below(many ? 300 : 40);
    GemmCase c{"random", below(2) == 0, rows, 1 + below(400), 1 + below(260)};
    c.arch = below(2) == 0 ? 80 : 90;
    c.seed = random();
    c.num_sms = 1 + below(20);
    c.invariant = below(3) == 0;
    c.spare_rows = below(2) * below(50);
    std::string what = "random case " + std::to_string(i) + ": rows";
    for (int n : rows) what += " " + std::to_string(n);
    what += ", " + std::to_string(c.in_features) + " to " + std::to_string(c.out_features);
    const std::string error = run_gemm(c).error;
    expect(error.empty(), what + ": " + error);
  }
}

void takes_no_rows() {
  for (int arch : {80, 90}) {
    expect(run_gemm({"no rows", true, {0, 0}, 64, 64, arch}).error.empty(), "no rows at all");
    expect(run_gemm({"all dropped", true, {0, 0}, 64, 64, arch, 1, false, 4, 9}).error.empty(), "all rows dropped");
  }
}

// Batch-invariant mode: the bits of a row are the same alone, among others, and on another number of SMs.
void a_row_does_not_see_its_neighbours() {
  for (bool swiglu : {false, true}) {
    // Expert 0 goes first, so its row of every case is the same row of x.
    const GemmCase alone{"alone", swiglu, {1, 0}, 640, 64, 90, 1, true};
    const std::vector<uint16_t> bits = run_gemm(alone).out;
    for (GemmCase c : {GemmCase{"a few", swiglu, {1, 20}, 640, 64, 90, 1, true, 3},
                       GemmCase{"many", swiglu, {1, 200}, 640, 64, 90, 1, true, 7}}) {
      const GemmResult result = run_gemm(c);
      expect(result.error.empty() && std::equal(bits.begin(), bits.end(), result.out.begin()),
             std::string(c.name) + " neighbours leave a row's bits alone");
    }
  }
}

// Panels and images beyond 2^32 bytes: an offset that is computed in 32 bits leaves the allocation or reads poison.
void offsets_have_64_bits() {
  constexpr int kFarRows = 18 << 20;
  std::vector<int> last_of_many(230);
  last_of_many.back() = 1;
  for (int arch : {80, 90}) {
    const GemmCase far_panel{"far panel", false, {3}, 192, 192, arch, 1, false, 4, kFarRows};
    const GemmCase far_weights{"far weights", true, last_of_many, 1024, 3072, arch};
    for (const GemmCase& c : {far_panel, far_weights}) {
      const std::string error = run_gemm(c).error;
      expect(error.empty(), std::string(c.name) + ": " + error);
    }
  }
}

// Whatever a caller passes as expert_offsets, no access leaves the panel.
void hostile_offsets_stay_inside() {
  for (int arch : {80, 90})
    for (const std::vector<int32_t>& offsets :
         {std::vector<int32_t>{0, 100, 3}, {0, -5, 7}, {5, 4, 3}, {0, 1 << 30, 9}, {INT32_MIN, INT32_MAX, INT32_MIN}}) {
      Machine machine({.arch = arch});
      MachineStream stream(machine);
      const WeightImage image = weight_image(WeightKind::plain, 64, 64);
      void* x = machine.allocate(panel_bytes(9, 2, 64));
      void* w = machine.allocate(2 * image.expert_bytes());
      void* out = machine.allocate(panel_bytes(9, 2, 64));
      void* o = machine.allocate(offsets.size() * 4);
      machine.write(o, offsets.data(), offsets.size() * 4);
      std::string error;
      try {
        grouped_gemm({{{x, DType::bf16}}, {{w, DType::bf16}}, {o, DType::i32}, {{out, DType::bf16}}, 9, 2, 64, 64},
                     stream);
      } catch (const Error& e) {
        error = e.what();
      }
      expect(error.empty(), "hostile offsets: " + error);
    }
}

// Every number of a matrix has a place of its own, and weight_row() finds the way back.
void layouts_lose_nothing() {
  for (const auto& [kind, out_features] : {std::pair{WeightKind::plain, 200}, {WeightKind::gate_up, 3 * 72}}) {
    const WeightImage image = weight_image(kind, out_features, 70);
    std::vector<int> taken(image.expert_bytes() / 2);
    for (int out = 0; out < out_features; ++out)
      for (int in = 0; in < 70; ++in) ++taken[weight_offset(image, out_features, 0, out, in) / 2];
    for (int n : taken) expect(n <= 1, "places of weights are distinct");
    int rows = 0;
    for (int tile = 0; tile < image.tiles; ++tile)
      for (int row = 0; row < image.rows; ++row) {
        const int64_t out = weight_row(image, out_features, tile, row);
        if (out < 0) continue;
        ++rows;
        expect(weight_offset(image, out_features, 2, out, 65) ==
                   2 * image.expert_bytes() + tile * image.tile_bytes() + image.block_bytes() + swizzled(row, 1),
               "weight_row is the reverse of weight_offset");
      }
    expect(rows == out_features, "weight_row finds every row");
  }
  expect(panel_rows(10, 3) == 32 && panel_bytes(10, 3, 65) == 2 * 32 * 128, "panel size");
  expect(panel_offset(32, 9, 64 + 8) == 32 * 128 + 9 * 128, "panel offset");  // chunk 1 of row 9 is at 1 ^ 1
}

void too_many_experts_are_refused() {
  expect(run_gemm({"too many", false, std::vector<int>(241), 64, 64, 90, 1, false, 4, 1}).error.find("240") !=
             std::string::npos,
         "more than 240 experts are refused");
  expect(run_gemm({"just enough", true, std::vector<int>(240, 1), 64, 64, 80}).error.empty(), "240 experts fit");
}

int main(int argc, char** argv) {
  test::stop_at_first = argc > 1;
  const auto wants = [&](std::string_view part) {
    return argc == 1 || std::find(argv, argv + argc, part) != argv + argc;
  };
  if (wants("cases")) agrees_with_f64(3);
  if (wants("random")) agrees_with_f64_at_random(argc > 2 ? std::atoi(argv[2]) : 40);
  if (wants("empty")) takes_no_rows();
  if (wants("invariant")) a_row_does_not_see_its_neighbours();
  if (wants("far")) offsets_have_64_bits();
  if (wants("hostile")) hostile_offsets_stay_inside();
  if (wants("layouts")) layouts_lose_nothing();
  if (wants("experts")) too_many_experts_are_refused();
  return test::report();
}

}  // namespace
}  // namespace openmoe::gpu

int main(int argc, char** argv) { return openmoe::gpu::main(argc, argv); }
