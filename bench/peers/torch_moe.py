"""One OpenMoE mixture-of-experts layer in plain PyTorch: the tokens of each expert gathered, three matrix products, scattered back.

argv: dtype (bf16, f32), hidden_size, intermediate_size, num_experts, threads. Reads {"tokens": T, "runs": N} lines, answers
{"us": microseconds of one run} lines. Without capacity, as the package's default; weights are random.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

TOP_K = 2
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def random_weights(dtype):
    """Makes matrices [..., out, in], uniform with variance 1 / in."""

    def make(*shape, dtype=dtype):
        bound = (3 / shape[-1]) ** 0.5
        return torch.empty(*shape, dtype=dtype).uniform_(-bound, bound)

    return make


def linear(x, w):
    """x w^T. PyTorch makes a slow product of matrices of a single row in f32; in bf16 it is the fast way."""
    if x.shape[0] == 1 and x.dtype == torch.float32:
        return torch.mv(w, x[0]).unsqueeze(0)
    return F.linear(x, w)


class Mlp:
    def __init__(self, hidden, intermediate, weights):
        self.gate_up = weights(3 * intermediate, hidden)
        self.down = weights(hidden, intermediate)

    def __call__(self, x):
        a, b, up = linear(x, self.gate_up).chunk(3, dim=-1)
        return linear(a * F.silu(b) * up, self.down)


class MoeLayer:
    def __init__(self, hidden, intermediate, experts, weights):
        self.router = weights(experts, hidden, dtype=torch.float32)
        self.experts = [Mlp(hidden, intermediate, weights) for _ in range(experts)]

    def __call__(self, x):
        probabilities = F.softmax(F.linear(x.float(), self.router), dim=-1)  # in f32 always
        weights, ids = probabilities.topk(TOP_K, dim=-1)
        order = ids.flatten().argsort()
        counts = torch.bincount(ids.flatten(), minlength=len(self.experts)).tolist()
        weights = weights.flatten()[order].to(x.dtype).unsqueeze(1)
        out = torch.zeros_like(x)
        for expert, tokens, weight in zip(self.experts, (order // TOP_K).split(counts), weights.split(counts)):
            if len(tokens) > 0:
                out.index_add_(0, tokens, expert(x[tokens]) * weight)
        return out


def serve(run):
    """Answers each request with the mean time of `run(**request)`'s calls; it returns a list of them."""
    for line in sys.stdin:
        calls = run(**json.loads(line))
        start = time.perf_counter()
        for call in calls:
            call()
        print(json.dumps({"us": (time.perf_counter() - start) * 1e6 / len(calls)}), flush=True)


def main():
    dtype = DTYPES[sys.argv[1]]
    hidden, intermediate, experts, threads = map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    layer = MoeLayer(hidden, intermediate, experts, random_weights(dtype))

    def run(tokens, runs):
        inputs = [torch.randn(tokens, hidden).to(dtype) for _ in range(runs)]
        return [lambda x=x: layer(x) for x in inputs]

    serve(run)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
