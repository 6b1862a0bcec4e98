// The small GPU kernels of a MoE layer in the emulator, each against a few plain lines: router, gating, routing,
// permute, un-permute. tests/ops holds them to more; this is what the mutation suite can run without Node. With
// arguments, only the named parts run and the first failure ends it.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include "check.h"
#include "gpu/emulator/machine.h"
#include "gpu/op_list.h"
#include "gpu/stream.h"
#include "gpu/tile_image.h"
#include "support/bf16.h"
#include "support/error.h"

namespace openmoe::gpu {

#define DECLARE_LAUNCHER(op, Contract) void op(const Contract& args, Stream& stream);
OPENMOE_GPU_OPS(DECLARE_LAUNCHER)

namespace {

using test::expect;
using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;

struct Gpu {
  explicit Gpu(uint64_t seed) : machine({.num_sms = 3, .seed = seed}), stream(machine) {}

  template <class T>
  T* put(const std::vector<T>& data) {
    T* to = make<T>(data.size());
    machine.write(to, data.data(), data.size() * sizeof(T));
    return to;
  }
  template <class T>
  T* make(size_t count) {
    return static_cast<T*>(machine.allocate(count * sizeof(T)));
  }
  template <class T>
  std::vector<T> get(const void* from, size_t count) {
    std::vector<T> to(count);
    machine.read(to.data(), from, count * sizeof(T));
    return to;
  }
  int fault() { return get<int32_t>(stream.fault(), 1)[0]; }

  Machine machine;
  MachineStream stream;
};

In in(const void* p, DType dtype = DType::f32) { return {p, dtype}; }
Out out(void* p, DType dtype = DType::f32) { return {p, dtype}; }

Floats normals(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// Ids of the k largest, ties to the lowest, and their softmax over all.
void check_choice(const float* logits, int experts, int k, const int32_t* ids, const float* weights,
                  const std::string& what) {
  Ints order(experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  double sum = 0;
  for (int e = 0; e < experts; ++e) sum += std::exp(double{logits[e]} - logits[order[0]]);
  for (int i = 0; i < k; ++i) {
    expect(ids[i] == order[i], what + ": the best experts, ties to the lowest");
    expect(std::abs(weights[i] - std::exp(double{logits[order[i]]} - logits[order[0]]) / sum) < 1e-6,
           what + ": their probabilities");
  }
}

void router(uint64_t seed) {
  // Enough tokens for the wide blocks on 3 SMs, and a width that no step divides.
  for (auto [tokens, experts, hidden] : {std::array{5, 32, 128}, {37, 10, 70}, {1, 40, 64}}) {
    Gpu gpu(seed);
    const int k = 2;
    const Floats x = normals(size_t(tokens) * hidden, 1);
    Floats w = normals(size_t(experts) * hidden, 2);
    std::copy_n(&w[2 * hidden], hidden, &w[7 * hidden]);  // a tie in every token
    auto* logits = gpu.make<float>(size_t(tokens) * experts);
    auto* ids = gpu.make<int32_t>(size_t(tokens) * k);
    auto* weights = gpu.make<float>(size_t(tokens) * k);
    moe_router(
        {in(gpu.put(x)), in(gpu.put(w)), out(logits), out(ids, DType::i32), out(weights), tokens, experts, k, hidden},
        gpu.stream);
    const Floats got = gpu.get<float>(logits, size_t(tokens) * experts);
    const Ints chosen = gpu.get<int32_t>(ids, size_t(tokens) * k);
    const Floats probability = gpu.get<float>(weights, size_t(tokens) * k);
    for (int t = 0; t < tokens; ++t) {
      for (int e = 0; e < experts; ++e) {
        double want = 0;
        for (int i = 0; i < hidden; ++i) want += double{x[t * hidden + i]} * w[e * hidden + i];
        expect(std::abs(got[t * experts + e] - want) < 1e-4, "router: logits");
      }
      check_choice(&got[t * experts], experts, k, &chosen[t * k], &probability[t * k], "router");
    }
  }
}

void gating(uint64_t seed) {
  for (auto [tokens, experts, k] : {std::array{9, 32, 2}, {3, 70, 5}, {2, 4, 4}}) {
    Gpu gpu(seed);
    Floats logits = normals(size_t(tokens) * experts, 3);
    for (int e = 0; e < experts; ++e) logits[e] = e % 3 == 1 ? 2.0f : 1.0f;  // ties among first and second
    auto* ids = gpu.make<int32_t>(size_t(tokens) * k);
    auto* weights = gpu.make<float>(size_t(tokens) * k);
    moe_gating({in(gpu.put(logits)), out(ids, DType::i32), out(weights), tokens, experts, k}, gpu.stream);
    const Ints chosen = gpu.get<int32_t>(ids, size_t(tokens) * k);
    const Floats probability = gpu.get<float>(weights, size_t(tokens) * k);
    for (int t = 0; t < tokens; ++t)
      check_choice(&logits[t * experts], experts, k, &chosen[t * k], &probability[t * k], "gating");
  }
}

struct RoutingCase {
  int tokens, k, experts;
  Ints groups, capacity;  // first tokens; rows an expert may take, -1: any
};

const RoutingCase kRoutings[] = {
    {1, 2, 4, {0, 1}, {-1}},
    {150, 2, 8, {0, 150}, {-1}},
    {150, 2, 8, {0, 150}, {20}},
    {131, 3, 5, {0, 40, 40, 131}, {9, 2, 30}},
    {700, 2, 32, {0, 300, 700}, {24, 30}},
};

struct Routes {
  Ints expert_offsets, row_id_map, rank;
};

// First choices of a group claim capacity before its second choices; rows go by expert, group, rank.
Routes plain_routing(const RoutingCase& c, const Ints& ids) {
  Routes r{Ints(c.experts + 1), Ints(ids.size(), -1), Ints(ids.size())};
  std::vector<std::vector<int>> rows(c.experts);  // the choices an expert keeps, in order
  for (size_t g = 0; g + 1 < c.groups.size(); ++g) {
    Ints seen(c.experts);
    for (int k = 0; k < c.k; ++k)
      for (int t = c.groups[g]; t < c.groups[g + 1]; ++t) {
        const int choice = t * c.k + k;
        const int rank = r.rank[choice] = seen[ids[choice]]++;
        if (c.capacity[g] < 0 || rank < c.capacity[g]) rows[ids[choice]].push_back(choice);
      }
  }
  int row = 0;
  for (int e = 0; e < c.experts; ++e) {
    for (int choice : rows[e]) r.row_id_map[choice] = row++;
    r.expert_offsets[e + 1] = row;
  }
  return r;
}

Ints random_ids(const RoutingCase& c) {
  std::mt19937 random(5);
  Ints ids(size_t(c.tokens) * c.k);
  for (int32_t& id : ids) id = static_cast<int32_t>(std::min(random() % c.experts, random() % c.experts));  // skewed
  return ids;
}

void routing(uint64_t seed) {
  for (const RoutingCase& c : kRoutings) {
    Gpu gpu(seed);
    const Ints ids = random_ids(c);
    const Routes want = plain_routing(c, ids);
    auto* offsets = gpu.make<int32_t>(c.experts + 1);
    auto* map = gpu.make<int32_t>(ids.size());
    auto* rank = gpu.make<int32_t>(ids.size());
    moe_routing({in(gpu.put(ids), DType::i32), in(gpu.put(c.groups), DType::i32), in(gpu.put(c.capacity), DType::i32),
                 out(offsets, DType::i32), out(map, DType::i32), out(rank, DType::i32), c.tokens, c.k,
                 static_cast<int>(c.capacity.size()), c.experts},
                gpu.stream);
    const std::string what = "routing of " + std::to_string(c.tokens) + " tokens: ";
    expect(gpu.get<int32_t>(rank, ids.size()) == want.rank, what + "rank");
    expect(gpu.get<int32_t>(map, ids.size()) == want.row_id_map, what + "row_id_map");
    expect(gpu.get<int32_t>(offsets, c.experts + 1) == want.expert_offsets, what + "expert_offsets");
    expect(gpu.fault() == 0, what + "no fault");
  }
}

// x -> panel -> sum of its rows, on the routes of a case with drops. The panel's padding rows stay poison.
void permute(uint64_t seed) {
  for (auto [which, hidden] : {std::array{2, 128}, {3, 70}, {4, 64}}) {
    Gpu gpu(seed);
    const RoutingCase& c = kRoutings[which];
    const Routes routes = plain_routing(c, random_ids(c));
    const int num_rows = c.tokens * c.k;
    const Floats x = normals(size_t(c.tokens) * hidden, 6), weights = normals(num_rows, 7);
    auto* panel = gpu.make<std::byte>(panel_bytes(num_rows, c.experts, hidden));
    const auto *device_x = gpu.put(x), *device_weights = gpu.put(weights);
    const auto *map = gpu.put(routes.row_id_map), *offsets = gpu.put(routes.expert_offsets);
    moe_permute({in(device_x),
                 in(map, DType::i32),
                 in(offsets, DType::i32),
                 {{panel, DType::bf16}},
                 c.tokens,
                 c.k,
                 c.experts,
                 hidden},
                gpu.stream);
    const auto bytes = gpu.get<std::byte>(panel, panel_bytes(num_rows, c.experts, hidden));
    const auto at = [&](int64_t row, int feature) {
      bf16 value;
      std::memcpy(&value, &bytes[panel_offset(panel_rows(num_rows, c.experts), row, feature)], 2);
      return to_float(value);
    };
    Ints panel_row(num_rows, -1);  // of each row
    for (int e = 0, start = 0; e < c.experts; ++e) {
      const int first = routes.expert_offsets[e], end = routes.expert_offsets[e + 1];
      for (int row = first; row < end; ++row) panel_row[row] = start + row - first;
      start += static_cast<int>(round_up(end - first, kGroupRows));
    }
    for (int choice = 0; choice < num_rows; ++choice) {
      const int row = routes.row_id_map[choice];
      for (int f = 0; row >= 0 && f < round_up(hidden, kBlockFeatures); ++f)
        expect(at(panel_row[row], f) == (f < hidden ? to_float(to_bf16(x[choice / c.k * hidden + f])) : 0),
               "permute: rows of the panel, zero past the last feature");
    }

    auto* sums = gpu.make<float>(size_t(c.tokens) * hidden);
    for (bool residual : {false, true}) {
      moe_unpermute({{{panel, DType::bf16}},
                     in(map, DType::i32),
                     in(device_weights),
                     in(offsets, DType::i32),
                     in(residual ? device_x : nullptr),
                     out(sums),
                     num_rows,
                     c.tokens,
                     c.k,
                     c.experts,
                     hidden},
                    gpu.stream);
      const Floats got = gpu.get<float>(sums, size_t(c.tokens) * hidden);
      for (int t = 0; t < c.tokens; ++t)
        for (int f = 0; f < hidden; ++f) {
          float want = 0;
          for (int k = 0; k < c.k; ++k)
            if (const int row = routes.row_id_map[t * c.k + k]; row >= 0)
              want = std::fma(weights[t * c.k + k], at(panel_row[row], f), want);
          if (residual) want = x[t * hidden + f] + want;
          expect(got[t * hidden + f] == want, "unpermute: the sum in the order of choices");
        }
    }
    expect(gpu.fault() == 0, "permute: no fault");
  }
}

// Whatever the numbers are, no access leaves the tensors, and the fault is reported.
void hostile() {
  const Ints ids = {0, 9, -3, 1}, groups = {0, 2}, capacity = {-1}, map = {0, 99, -7, 1}, offsets = {0, 5, 2};
  Gpu gpu(1);
  moe_routing({in(gpu.put(ids), DType::i32), in(gpu.put(groups), DType::i32), in(gpu.put(capacity), DType::i32),
               out(gpu.make<int32_t>(3), DType::i32), out(gpu.make<int32_t>(4), DType::i32),
               out(gpu.make<int32_t>(4), DType::i32), 2, 2, 1, 2},
              gpu.stream);
  expect(gpu.fault() == 1, "routing reports expert ids out of range");
  for (const auto& [rows, starts] : {std::pair<Ints, Ints>{map, {0, 1, 2}}, {{0, 1, -1, -1}, offsets}}) {
    Gpu other(1);
    moe_permute({in(other.put(normals(2 * 64, 1))),
                 in(other.put(rows), DType::i32),
                 in(other.put(starts), DType::i32),
                 {{other.make<std::byte>(panel_bytes(4, 2, 64)), DType::bf16}},
                 2,
                 2,
                 2,
                 64},
                other.stream);
    expect(other.fault() == 1, "permute reports rows and offsets out of range");
  }
}

int main(int argc, char** argv) {
  test::stop_at_first = argc > 1;
  const auto run = [&](std::string_view part, auto body) {
    if (argc > 1 && std::find(argv, argv + argc, part) == argv + argc) return;
    for (uint64_t seed = 1; seed <= 3; ++seed) try {
        body(seed);
      } catch (const Error& error) {
        expect(false, std::string(part) + ": " + error.what());
      }
  };
  run("router", router);
  run("gating", gating);
  run("routing", routing);
  run("permute", permute);
  run("hostile", [](uint64_t) { hostile(); });
  return test::report();
}

}  // namespace
}  // namespace openmoe::gpu

int main(int argc, char** argv) { return openmoe::gpu::main(argc, argv); }
