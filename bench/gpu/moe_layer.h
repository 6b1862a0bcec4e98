// The MoE layer of one shape on a bare device: weights made on the device, several sets of activations to rotate, and
// what each of its kernels must at least move and compute.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "../../tests/native/bare_device.h"
#include "gpu/launch_table.h"
#include "gpu/pack_weights.h"
#include "gpu/tile_image.h"
#include "hash_random.h"

namespace openmoe::gpu::bench {

constexpr int kTopK = 2;

struct Shape {
  const char* name;
  int hidden_size, intermediate_size, num_experts;
  // f32 numbers scaled to a variance of 1 / fan-in.
  float x_scale() const { return 1 / kByteSumDeviation; }
  float in_scale() const { return 1 / (kByteSumDeviation * std::sqrt(static_cast<float>(hidden_size))); }
  float out_scale() const { return 1 / (kByteSumDeviation * std::sqrt(static_cast<float>(intermediate_size))); }
};
constexpr Shape kShapes[] = {{"tiny", 128, 64, 8}, {"8b", 2048, 8192, 32}, {"34b", 3072, 12288, 32}};

enum class Part { layer, router, routing, permute, grouped_gemm_swiglu, grouped_gemm, unpermute };
constexpr const char* kPartNames[] = {"moe_layer",           "moe_router",   "moe_routing",  "moe_permute",
                                      "grouped_gemm_swiglu", "grouped_gemm", "moe_unpermute"};

class Weights {
 public:
  Weights(BareDevice& device, const Shape& shape)
      : router(device, int64_t{shape.num_experts} * shape.hidden_size),
        gate_up(device, image_bytes(WeightKind::gate_up, 3 * shape.intermediate_size, shape.hidden_size, shape)),
        down(device, image_bytes(WeightKind::plain, shape.hidden_size, shape.intermediate_size, shape)) {
    const int64_t d = shape.hidden_size, f = shape.intermediate_size;
    fill_f32(device.stream(), router.data, shape.num_experts * d, kRouterSeed, shape.in_scale());
    DeviceArray<uint16_t> rows(device, 3 * f * d);
    for (uint32_t e = 0; e < static_cast<uint32_t>(shape.num_experts); ++e) {
      fill_bf16(device.stream(), rows.data, 3 * f * d, kGateUpSeed + e, shape.in_scale());
      pack_weights({rows.data, gate_up.data, MatrixLayout::gate_up, 3 * f, d, e, 0, 0, 3 * f, d}, device.stream());
      fill_bf16(device.stream(), rows.data, f * d, kDownSeed + e, shape.out_scale());
      pack_weights({rows.data, down.data, MatrixLayout::rows, d, f, e, 0, 0, d, f}, device.stream());
    }
    device.synchronize();
  }

  DeviceArray<float> router;
  DeviceArray<std::byte> gate_up, down;

 private:
  static size_t image_bytes(WeightKind kind, int64_t out, int64_t in, const Shape& shape) {
    return shape.num_experts * weight_image(kind, out, in).expert_bytes();
  }
};

// Activations of one set: everything between the layer's input and its output, so that sets share nothing.
struct Activations {
  Activations(BareDevice& device, const Shape& shape, int num_tokens, Routing routing, uint32_t set)
      : ids(random_ids(routing, num_tokens, shape.num_experts, kIdSeed + set)),
        x(device, int64_t{num_tokens} * shape.hidden_size),
        router_logits(device, int64_t{num_tokens} * shape.num_experts),
        router_weights(device, int64_t{num_tokens} * kTopK),
        router_ids(device, int64_t{num_tokens} * kTopK),
        expert_ids(device, ids),
        expert_weights(device, int64_t{num_tokens} * kTopK),
        expert_offsets(device, shape.num_experts + 1),
        row_id_map(device, int64_t{num_tokens} * kTopK),
        rank(device, int64_t{num_tokens} * kTopK),
        permuted(device, panel_bytes(num_tokens * kTopK, shape.num_experts, shape.hidden_size)),
        hidden(device, panel_bytes(num_tokens * kTopK, shape.num_experts, shape.intermediate_size)),
        expert_out(device, panel_bytes(num_tokens * kTopK, shape.num_experts, shape.hidden_size)),
        out(device, int64_t{num_tokens} * shape.hidden_size) {
    fill_f32(device.stream(), x.data, int64_t{num_tokens} * shape.hidden_size, kXSeed + set, shape.x_scale());
    fill_f32(device.stream(), expert_weights.data, int64_t{num_tokens} * kTopK, kWeightSeed + set, shape.x_scale());
  }
  void poison() {
    expert_offsets.poison(), row_id_map.poison(), rank.poison();
    permuted.poison(), hidden.poison(), expert_out.poison(), out.poison();
  }
  int distinct_experts() const { return static_cast<int>(std::set<int32_t>(ids.begin(), ids.end()).size()); }
  int max_expert_rows(int num_experts) const {
    std::vector<int> rows(num_experts);
    for (int32_t e : ids) ++rows[e];
    return *std::max_element(rows.begin(), rows.end());
  }

  const std::vector<int32_t> ids;
  DeviceArray<float> x, router_logits, router_weights;
  DeviceArray<int32_t> router_ids, expert_ids;
  DeviceArray<float> expert_weights;
  DeviceArray<int32_t> expert_offsets, row_id_map, rank;
  DeviceArray<std::byte> permuted, hidden, expert_out;
  DeviceArray<float> out;
};

class Layer {
 public:
  Layer(BareDevice& device, const Shape& shape, Weights& weights, int num_tokens)
      : shape(shape),
        num_tokens(num_tokens),
        device_(device),
        weights_(weights),
        group_offsets_(device, std::vector<int32_t>{0, num_tokens}),
        capacity_(device, std::vector<int32_t>{-1}) {}

  // Routing follows the ids of the set and not the router's, so that their distribution is what is asked for.
  void launch(Part part, Activations& a) {
    const int t = num_tokens, e = shape.num_experts, d = shape.hidden_size, f = shape.intermediate_size;
    const int rows = t * kTopK;
    const auto in = [](const void* p, DType type = DType::f32) { return In{p, type}; };
    const auto out = [](void* p, DType type = DType::f32) { return Out{p, type}; };
    const In offsets = in(a.expert_offsets.data, DType::i32), map = in(a.row_id_map.data, DType::i32);
    const auto from = [](auto& panel) { return PanelIn{{panel.data, DType::bf16}}; };
    const auto to = [](auto& panel) { return PanelOut{{panel.data, DType::bf16}}; };
    Stream& s = device_.stream();
    const bool all = part == Part::layer;
    if (all || part == Part::router)
      moe_router({in(a.x.data), in(weights_.router.data), out(a.router_logits.data), out(a.router_ids.data, DType::i32),
                  out(a.router_weights.data), t, e, kTopK, d},
                 s);
    if (all || part == Part::routing)
      moe_routing({in(a.expert_ids.data, DType::i32), in(group_offsets_.data, DType::i32),
                   in(capacity_.data, DType::i32), out(a.expert_offsets.data, DType::i32),
                   out(a.row_id_map.data, DType::i32), out(a.rank.data, DType::i32), t, kTopK, 1, e},
                  s);
    if (all || part == Part::permute) moe_permute({in(a.x.data), map, offsets, to(a.permuted), t, kTopK, e, d}, s);
    if (all || part == Part::grouped_gemm_swiglu)
      grouped_gemm_swiglu(
          {from(a.permuted), Matrix{{weights_.gate_up.data, DType::bf16}}, offsets, to(a.hidden), rows, e, f, d}, s);
    if (all || part == Part::grouped_gemm)
      grouped_gemm(
          {from(a.hidden), Matrix{{weights_.down.data, DType::bf16}}, offsets, to(a.expert_out), rows, e, d, f}, s);
    if (all || part == Part::unpermute)
      moe_unpermute({from(a.expert_out), map, in(a.expert_weights.data), offsets, In{nullptr, DType::f32},
                     out(a.out.data), rows, t, kTopK, e, d},
                    s);
  }

  struct Work {
    double bytes, flops;
    bool copies;  // about as many writes as reads: held against the copy bandwidth
  };
  // The least traffic and arithmetic; `experts` is how many have rows. f32 outside the panels, bf16 in them.
  Work work(Part part, double experts) const {
    const double t = num_tokens, e = shape.num_experts, d = shape.hidden_size, f = shape.intermediate_size;
    const double rows = t * kTopK;
    switch (part) {
      case Part::layer:
        return {experts * 8 * d * f + 4 * e * d + 8 * t * d, rows * 8 * d * f + 2 * t * d * e, false};
      case Part::router:
        return {4 * t * d + 4 * e * d + 4 * t * (e + 2 * kTopK), 2 * t * d * e, false};
      case Part::routing:
        return {12 * rows, 0, true};
      case Part::permute:
        return {4 * t * d + 2 * rows * d + 4 * rows, 0, true};
      case Part::grouped_gemm_swiglu:
        return {experts * 6 * d * f + 2 * rows * (d + f), 6 * rows * d * f, false};
      case Part::grouped_gemm:
        return {experts * 2 * d * f + 2 * rows * (d + f), 2 * rows * d * f, false};
      default:
        return {2 * rows * d + 8 * rows + 4 * t * d, 2 * rows * d, true};
    }
  }

  const Shape& shape;
  const int num_tokens;

 private:
  BareDevice& device_;
  Weights& weights_;
  DeviceArray<int32_t> group_offsets_, capacity_;
};

}  // namespace openmoe::gpu::bench
