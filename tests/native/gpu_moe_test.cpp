// The small kernels of the MoE layer in the emulator, against loops that are slow and obvious. With arguments, only the
// named parts run and the first failure ends it: what the mutation suite wants (tests/cuda/mutations.test.ts).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include "check.h"
#include "gpu/emulator/machine.h"
#include "gpu/launch_table.h"
#include "gpu/tile_image.h"
#include "support/bf16.h"

namespace openmoe::gpu {
namespace {

using test::expect;

// Host vectors on an emulated device, and back.
class Bench {
 public:
  explicit Bench(uint64_t seed, int num_sms = 2) : machine_({.num_sms = num_sms, .seed = seed}), stream(machine_) {}

  template <class T>
  In in(const std::vector<T>& from) {
    void* to = room(from.size() * sizeof(T));
    machine_.write(to, from.data(), from.size() * sizeof(T));
    return {to, dtype<T>()};
  }
  // Poisoned: what a kernel does not write is NaN, or -1.
  template <class T>
  Out out(size_t count) {
    return {room(count * sizeof(T)), dtype<T>()};
  }
  template <class T>
  std::vector<T> read(const Out& from, size_t count) {
    std::vector<T> to(count);
    machine_.read(to.data(), from.data, count * sizeof(T));
    return to;
  }
  int fault() {
    int32_t value;
    machine_.read(&value, stream.fault(), sizeof value);
    return value;
  }

 private:
  Machine machine_;

 public:
  MachineStream stream;

 private:
  template <class T>
  static constexpr DType dtype() {
    return std::is_same_v<T, float> ? DType::f32 : std::is_same_v<T, int32_t> ? DType::i32 : DType::bf16;
  }
  void* room(size_t bytes) { return machine_.allocate(std::max<size_t>(bytes, 1)); }
};

std::vector<float> normal(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> numbers(count);
  for (float& n : numbers) n = distribution(random);
  return numbers;
}

float rounded(float x) { return to_float(to_bf16(x)); }

// ---- gating and router

// Ids by definition; weights within rounding of softmax in f64.
void expect_choice(const std::vector<float>& logits, int experts, int top_k, const std::vector<int32_t>& ids,
                   const std::vector<float>& weights, const std::string& what) {
  for (size_t t = 0; t * experts < logits.size(); ++t) {
    const float* row = &logits[t * experts];
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
    double sum = 0;
    for (int e = 0; e < experts; ++e) sum += std::exp(double{row[e]} - row[order[0]]);
    for (int k = 0; k < top_k; ++k) {
      expect(ids[t * top_k + k] == order[k], what + ": the choice of a token");
      const double weight = std::exp(double{row[order[k]]} - row[order[0]]) / sum;
      expect(std::abs(weights[t * top_k + k] - weight) < 1e-6, what + ": the weight of a choice");
    }
  }
}

void gating_is_softmax_and_top_k() {
  for (const auto& [tokens, experts, top_k] : {std::tuple{1, 1, 1}, {11, 32, 2}, {9, 45, 3}, {3, 7, 7}}) {
    std::vector<float> logits = normal(tokens * experts, 1);
    for (size_t i = 0; i < logits.size(); i += 3) logits[i] = 1;  // ties
    Bench bench(1);
    const Out ids = bench.out<int32_t>(tokens * top_k), weights = bench.out<float>(tokens * top_k);
    moe_gating({bench.in(logits), ids, weights, tokens, experts, top_k}, bench.stream);
    expect_choice(logits, experts, top_k, bench.read<int32_t>(ids, tokens * top_k),
                  bench.read<float>(weights, tokens * top_k), "gating");
  }
}

void router_makes_logits_and_chooses() {
  // 4 tokens a block, then, with more of them than 4 times the SMs, 16.
  for (const auto& [tokens, experts, width] : {std::tuple{1, 3, 5}, {7, 37, 132}, {21, 9, 256}, {18, 33, 70}}) {
    const int top_k = 2;
    const std::vector<float> x = normal(tokens * width, 2), weight = normal(experts * width, 3);
    std::vector<float> first;
    for (uint64_t seed : {1, 2}) {
      Bench bench(seed);
      const Out logits = bench.out<float>(tokens * experts), ids = bench.out<int32_t>(tokens * top_k),
                weights = bench.out<float>(tokens * top_k);
      moe_router({bench.in(x), bench.in(weight), logits, ids, weights, tokens, experts, top_k, width}, bench.stream);
      const std::vector<float> made = bench.read<float>(logits, tokens * experts);
      for (int t = 0; t < tokens; ++t)
        for (int e = 0; e < experts; ++e) {
          double sum = 0;
          for (int k = 0; k < width; ++k) sum += double{x[t * width + k]} * weight[e * width + k];
          expect(std::abs(made[t * experts + e] - sum) < 1e-4, "router: a logit");
        }
      expect_choice(made, experts, top_k, bench.read<int32_t>(ids, tokens * top_k),
                    bench.read<float>(weights, tokens * top_k), "router");
      if (seed == 1) first = made;
      expect(made == first, "router: the same bits on every schedule");
    }
  }
}

// ---- routing

struct RoutingCase {
  int tokens, top_k, experts;
  std::vector<int32_t> groups, capacity;
};

struct Routed {
  std::vector<int32_t> expert_offsets, row_id_map, rank;
};

// Spec 4.3 to 4.5, group by group and choice by choice.
Routed route(const RoutingCase& c, const std::vector<int32_t>& ids) {
  Routed r{std::vector<int32_t>(c.experts + 1), std::vector<int32_t>(ids.size(), -1), std::vector<int32_t>(ids.size())};
  std::vector<std::vector<int32_t>> rows(c.experts);
  for (size_t g = 0; g < c.capacity.size(); ++g) {
    std::vector<int32_t> used(c.experts);
    for (int k = 0; k < c.top_k; ++k)
      for (int t = c.groups[g]; t < c.groups[g + 1]; ++t) {
        const int i = t * c.top_k + k;
        r.rank[i] = used[ids[i]]++;
        if (c.capacity[g] < 0 || r.rank[i] < c.capacity[g]) rows[ids[i]].push_back(i);
      }
  }
  for (int e = 0; e < c.experts; ++e) {
    r.expert_offsets[e + 1] = r.expert_offsets[e] + static_cast<int32_t>(rows[e].size());
    for (size_t j = 0; j < rows[e].size(); ++j)
      r.row_id_map[rows[e][j]] = r.expert_offsets[e] + static_cast<int32_t>(j);
  }
  return r;
}

Routed run_routing(Bench& bench, const RoutingCase& c, const std::vector<int32_t>& ids) {
  const Out offsets = bench.out<int32_t>(c.experts + 1), map = bench.out<int32_t>(ids.size()),
            rank = bench.out<int32_t>(ids.size());
  moe_routing({bench.in(ids), bench.in(c.groups), bench.in(c.capacity), offsets, map, rank, c.tokens, c.top_k,
               static_cast<int>(c.capacity.size()), c.experts},
              bench.stream);
  return {bench.read<int32_t>(offsets, c.experts + 1), bench.read<int32_t>(map, ids.size()),
          bench.read<int32_t>(rank, ids.size())};
}

void routing_is_a_stable_sort() {
  const RoutingCase cases[] = {{0, 2, 3, {0}, {}},
                               {0, 2, 3, {0, 0, 0}, {1, 2}},
                               {1, 2, 2, {0, 1}, {-1}},
                               {300, 2, 7, {0, 300}, {70}},
                               {300, 2, 40, {0, 0, 1, 1, 90, 91, 300, 300}, {3, -1, 0, 5, 1, 8, 2}},
                               {133, 3, 5, {0, 64, 133}, {20, -1}},
                               {500, 2, 32, {0, 500}, {-1}}};
  for (const RoutingCase& c : cases) {
    std::mt19937 random(5);
    std::vector<int32_t> ids(c.tokens * c.top_k);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % c.experts * (random() % c.experts) / c.experts);
    const Routed want = route(c, ids);
    for (uint64_t seed : {1, 2}) {
      Bench bench(seed);
      const Routed got = run_routing(bench, c, ids);
      expect(got.rank == want.rank, "routing: ranks");
      expect(got.expert_offsets == want.expert_offsets, "routing: expert offsets");
      expect(got.row_id_map == want.row_id_map, "routing: rows");
      expect(bench.fault() == 0, "routing: no fault");
    }
  }
}

void routing_flags_what_is_wrong() {
  const RoutingCase fine{3, 2, 4, {0, 1, 3}, {-1, -1}};
  const std::vector<int32_t> ids = {0, 1, 2, 3, 0, 1};
  const auto flags = [&](const RoutingCase& c, const std::vector<int32_t>& choices) {
    Bench bench(1);
    run_routing(bench, c, choices);
    return bench.fault();
  };
  expect(flags(fine, ids) == 0, "routing: right indices are no fault");
  for (int32_t id : {-1, 4, INT32_MAX, INT32_MIN}) expect(flags(fine, {0, 1, id, 3, 0, 1}) == 1, "routing: a wrong id");
  for (const std::vector<int32_t>& groups :
       {std::vector<int32_t>{1, 1, 3}, {0, 2, 1}, {0, 1, 2}, {0, 1, 9}, {0, INT32_MIN, 3}, {0, INT32_MAX, 3}})
    expect(flags({3, 2, 4, groups, {-1, -1}}, ids) == 1, "routing: wrong groups");
}

// ---- permute and un-permute

// Some choices dropped, the others given rows in another order; experts of odd sizes, some without rows.
struct Permutation {
  std::vector<int32_t> row_id_map, expert_offsets;

  Permutation(int tokens, int top_k, int experts) : row_id_map(tokens * top_k, -1), expert_offsets(experts + 1) {
    std::mt19937 random(9);
    std::vector<int> choices(row_id_map.size());
    std::iota(choices.begin(), choices.end(), 0);
    std::shuffle(choices.begin(), choices.end(), random);
    int32_t rows = 0;
    for (int c : choices)
      if (random() % 5) row_id_map[c] = rows++;
    for (int e = 1; e < experts; ++e) expert_offsets[e] = static_cast<int32_t>(random() % (rows + 1));
    std::sort(expert_offsets.begin(), expert_offsets.end() - 1);
    expert_offsets[experts] = rows;
  }

  // Where row `row` is in a panel: each expert starts at a multiple of 8.
  int64_t panel_row(int row) const {
    int64_t start = 0;
    for (size_t e = 0;; ++e) {
      if (row < expert_offsets[e + 1]) return start + row - expert_offsets[e];
      start += round_up(expert_offsets[e + 1] - expert_offsets[e], 8);
    }
  }
};

struct RowsCase {
  int tokens, top_k, experts, width;
};
constexpr RowsCase kRows[] = {{1, 2, 4, 8}, {5, 2, 6, 70}, {40, 2, 33, 132}, {19, 3, 5, 129}, {33, 1, 1, 256}};

void permute_copies_every_token() {
  for (const auto& [tokens, top_k, experts, width] : kRows) {
    const Permutation p(tokens, top_k, experts);
    const std::vector<float> x = normal(tokens * width, 4);
    Bench bench(1);
    const int64_t rows = panel_rows(tokens * top_k, experts), numbers = panel_bytes(tokens * top_k, experts, width) / 2;
    const Out panel = bench.out<uint16_t>(numbers);
    moe_permute(
        {bench.in(x), bench.in(p.row_id_map), bench.in(p.expert_offsets), {panel}, tokens, top_k, experts, width},
        bench.stream);
    std::vector<uint16_t> want(numbers, 0xffff), got = bench.read<uint16_t>(panel, numbers);
    for (int i = 0; i < tokens * top_k; ++i)
      for (int f = 0; p.row_id_map[i] >= 0 && f < round_up(width, 64); ++f)
        want[panel_offset(rows, p.panel_row(p.row_id_map[i]), f) / 2] =
            f < width ? to_bf16(x[i / top_k * width + f]).bits : 0;
    expect(got == want, "permute: the panel");
    expect(bench.fault() == 0, "permute: no fault");
  }
}

void unpermute_adds_in_order() {
  for (const auto& [tokens, top_k, experts, width] : kRows)
    for (bool residual : {false, true}) {
      const Permutation p(tokens, top_k, experts);
      const int num_rows = tokens * top_k;
      const std::vector<float> permuted = normal(num_rows * width, 5), weights = normal(num_rows, 6),
                               x = normal(tokens * width, 7);
      const int64_t rows = panel_rows(num_rows, experts);
      std::vector<uint16_t> panel(panel_bytes(num_rows, experts, width) / 2, 0xffff);
      for (int r = 0; r < p.expert_offsets.back(); ++r)
        for (int f = 0; f < width; ++f)
          panel[panel_offset(rows, p.panel_row(r), f) / 2] = to_bf16(permuted[r * width + f]).bits;
      Bench bench(1);
      const Out out = bench.out<float>(tokens * width);
      moe_unpermute({{bench.in(panel)},
                     bench.in(p.row_id_map),
                     bench.in(weights),
                     bench.in(p.expert_offsets),
                     residual ? bench.in(x) : In{nullptr, DType::f32},
                     out,
                     num_rows,
                     tokens,
                     top_k,
                     experts,
                     width},
                    bench.stream);
      const std::vector<float> got = bench.read<float>(out, tokens * width);
      for (int t = 0; t < tokens; ++t)
        for (int f = 0; f < width; ++f) {
          float sum = 0;
          for (int k = 0; k < top_k; ++k) {
            const int row = p.row_id_map[t * top_k + k];
            if (row >= 0) sum = std::fma(weights[t * top_k + k], rounded(permuted[row * width + f]), sum);
          }
          if (residual) sum = x[t * width + f] + sum;
          expect(got[t * width + f] == sum, "unpermute: a number, to the bit");
        }
      expect(bench.fault() == 0, "unpermute: no fault");
    }
}

void rows_out_of_range_are_flagged() {
  const std::vector<float> x(16, 1), weights(2, 1);
  const std::vector<uint16_t> panel(panel_bytes(2, 1, 16) / 2);
  const auto flags = [&](const std::vector<int32_t>& map, const std::vector<int32_t>& offsets, bool permutes) {
    Bench bench(1);
    if (permutes)
      moe_permute({bench.in(x), bench.in(map), bench.in(offsets), {bench.out<uint16_t>(panel.size())}, 1, 2, 1, 16},
                  bench.stream);
    else
      moe_unpermute({{bench.in(panel)},
                     bench.in(map),
                     bench.in(weights),
                     bench.in(offsets),
                     {nullptr, DType::f32},
                     bench.out<float>(16),
                     2,
                     1,
                     2,
                     1,
                     16},
                    bench.stream);
    return bench.fault();
  };
  for (bool permutes : {true, false}) {
    expect(flags({1, -1}, {0, 2}, permutes) == 0, "rows in range are no fault");
    for (int32_t row : {-2, 2, INT32_MAX, INT32_MIN})
      expect(flags({0, row}, {0, 2}, permutes) == 1, "a row out of range");
  }
  for (const std::vector<int32_t>& offsets : {std::vector<int32_t>{1, 2}, {0, 3}, {0, -1}, {0, INT32_MAX}})
    expect(flags({0, 1}, offsets, true) == 1, "offsets out of range");
}

// ---- packing

void packing_fills_the_image() {
  struct Case {
    MatrixLayout layout;
    int64_t count, out, in, row, rows, col, cols;
  };
  for (const Case& c : {Case{MatrixLayout::rows, 2, 200, 100, 3, 150, 0, 100},
                        {MatrixLayout::rows, 1, 130, 300, 0, 130, 64, 128},
                        {MatrixLayout::gate_up, 2, 210, 72, 0, 140, 0, 72},
                        {MatrixLayout::gate_up, 1, 9, 5, 0, 9, 0, 5}}) {
    std::vector<uint16_t> from(c.rows * c.cols);
    std::iota(from.begin(), from.end(), 1);
    const WeightImage image =
        weight_image(c.layout == MatrixLayout::gate_up ? WeightKind::gate_up : WeightKind::plain, c.out, c.in);
    const size_t numbers = c.count * image.expert_bytes() / 2;
    Bench bench(1);
    const Out to = bench.out<uint16_t>(numbers);
    const int64_t index = c.count - 1;
    pack_weights({bench.in(from).as<uint16_t>(), to.data, c.layout, c.out, c.in, index, c.row, c.col, c.rows, c.cols},
                 bench.stream);
    std::vector<uint16_t> want(numbers, 0xffff);
    for (int64_t r = 0; r < c.rows; ++r)
      for (int64_t k = 0; k < round_up(c.cols, 8); ++k)
        want[weight_offset(image, c.out, index, c.row + r, c.col + k) / 2] = k < c.cols ? from[r * c.cols + k] : 0;
    expect(bench.read<uint16_t>(to, numbers) == want, "packing: the image");
  }
}

int main(int argc, char** argv) {
  test::stop_at_first = argc > 1;
  const auto wants = [&](std::string_view part) {
    return argc == 1 || std::find(argv, argv + argc, part) != argv + argc;
  };
  try {
    if (wants("gating")) gating_is_softmax_and_top_k();
    if (wants("router")) router_makes_logits_and_chooses();
    if (wants("routing")) routing_is_a_stable_sort();
    if (wants("faults")) routing_flags_what_is_wrong(), rows_out_of_range_are_flagged();
    if (wants("permute")) permute_copies_every_token();
    if (wants("unpermute")) unpermute_adds_in_order();
    if (wants("packing")) packing_fills_the_image();
  } catch (const std::exception& error) {  // of the emulator
    expect(false, error.what());
  }
  return test::report();
}

}  // namespace
}  // namespace openmoe::gpu

int main(int argc, char** argv) { return openmoe::gpu::main(argc, argv); }
