// Prints what each launcher asks a device for at the shapes of openmoe-8b, as JSON (scripts/cuda-gate.mjs). Nothing
// runs.
#include <cstdio>

#include "gpu/op_list.h"
#include "gpu/stream.h"

namespace openmoe::gpu {

#define DECLARE_LAUNCHER(op, Contract) void op(const Contract& args, Stream& stream);
OPENMOE_GPU_OPS(DECLARE_LAUNCHER)

namespace {

constexpr int kHidden = 2048, kIntermediate = 8192, kExperts = 32, kTopK = 2;
constexpr int kSms[] = {108, 132};  // A100, H100

class Recorder final : public Stream {
 public:
  Recorder(int arch, int tokens) : arch_(arch), tokens_(tokens) {}
  void* workspace(size_t) override { return nullptr; }
  int num_sms() const override { return arch_ == 90 ? kSms[1] : kSms[0]; }
  int arch() const override { return arch_; }
  int32_t* fault() override { return nullptr; }

 private:
  void start(const Launch& launch, const std::function<void()>&) override {
    static bool first = true;
    std::printf(
        "%s{\"op\": \"%s\", \"tokens\": %d, \"arch\": %d, \"blocks\": %lld, \"threads\": %d, \"shared_bytes\": %zu}",
        first ? "[" : ",\n", launch.name, tokens_, arch_, static_cast<long long>(launch.grid), launch.threads,
        launch.shared_bytes);
    first = false;
  }
  int arch_, tokens_;
};

void record(int arch, int tokens) {
  Recorder stream(arch, tokens);
  const int rows = tokens * kTopK;
  MoeRouter router{};
  router.num_tokens = tokens, router.hidden_size = kHidden, router.num_experts = kExperts, router.top_k = kTopK;
  moe_router(router, stream);
  MoeRouting routing{};
  routing.num_tokens = tokens, routing.top_k = kTopK, routing.num_groups = 1, routing.num_experts = kExperts;
  moe_routing(routing, stream);
  MoePermute permute{};
  permute.num_tokens = tokens, permute.top_k = kTopK, permute.hidden_size = kHidden, permute.num_experts = kExperts;
  moe_permute(permute, stream);
  GroupedGemmSwiglu up{};
  up.num_rows = rows, up.num_experts = kExperts, up.intermediate_size = kIntermediate, up.in_features = kHidden;
  grouped_gemm_swiglu(up, stream);
  GroupedGemm down{};
  down.num_rows = rows, down.num_experts = kExperts, down.out_features = kHidden, down.in_features = kIntermediate;
  grouped_gemm(down, stream);
  MoeUnpermute unpermute{};
  unpermute.num_tokens = tokens, unpermute.num_permuted = rows, unpermute.top_k = kTopK;
  unpermute.num_experts = kExperts, unpermute.hidden_size = kHidden;
  moe_unpermute(unpermute, stream);
}

}  // namespace
}  // namespace openmoe::gpu

int main() {
  for (int arch : {80, 90})
    for (int tokens : {1, 64, 4096}) openmoe::gpu::record(arch, tokens);
  std::printf("]\n");
  return 0;
}
