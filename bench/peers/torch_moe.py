"""One OpenMoE mixture-of-experts layer in plain PyTorch: the tokens of each expert gathered, three matrix products, scattered back.

argv: dtype (bf16, f32), hidden_size, intermediate_size, num_experts, threads. Reads {"tokens": T} lines, answers
{"us": microseconds} lines. Without capacity, as the package's default; weights are random.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

TOP_K = 2
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


class MoeLayer(torch.nn.Module):
    def __init__(self, hidden, intermediate, experts, dtype):
        super().__init__()

        def weights(*shape):
            # uniform with variance 1 / in_features
            return torch.nn.Parameter(((torch.rand(*shape) * 2 - 1) * (3 / shape[-1]) ** 0.5).to(dtype))

        self.router = weights(experts, hidden).float()
        self.gate_up = torch.nn.ParameterList(weights(3 * intermediate, hidden) for _ in range(experts))
        self.down = torch.nn.ParameterList(weights(hidden, intermediate) for _ in range(experts))

    def forward(self, x):
        probabilities = F.softmax(F.linear(x.float(), self.router), dim=-1)  # in f32 always
        weights, ids = probabilities.topk(TOP_K, dim=-1)
        out = torch.zeros_like(x)
        for expert in ids.unique().tolist():
            tokens, choice = (ids == expert).nonzero(as_tuple=True)
            a, b, up = F.linear(x[tokens], self.gate_up[expert]).chunk(3, dim=-1)
            y = F.linear(a * F.silu(b) * up, self.down[expert])
            out.index_add_(0, tokens, y * weights[tokens, choice].to(x.dtype).unsqueeze(1))
        return out


def main():
    dtype = DTYPES[sys.argv[1]]
    hidden, intermediate, experts, threads = map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    with torch.inference_mode():
        layer = MoeLayer(hidden, intermediate, experts, dtype)
        for line in sys.stdin:
            tokens = json.loads(line)["tokens"]
            runs = 8 if tokens < 64 else 2
            inputs = [torch.randn(tokens, hidden).to(dtype) for _ in range(runs)]
            start = time.perf_counter()
            for x in inputs:
                layer(x)
            print(json.dumps({"us": (time.perf_counter() - start) * 1e6 / runs}), flush=True)


main()
