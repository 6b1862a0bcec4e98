"""A whole OpenMoE in plain PyTorch: prompts and decode steps, with the logits of the last token only and a cache of keys and values.

argv: dtype (bf16, f32), experts (gathered, padded), threads, a JSON object of sizes (those of bench/shapes.ts). Reads {"tokens": T, "position": P,
"runs": N} lines, answers {"us": microseconds of one run} lines: T new tokens after P cached ones, to the id of the most likely next token.
Weights are random.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F

from torch_moe import DTYPES, TOP_K, Mlp, MoeLayer, linear, random_weights, serve

CAPACITY_FACTOR, MIN_CAPACITY = 2.0, 4


class PaddedMoeLayer(MoeLayer):
    """The way of the PyTorch code that was published with OpenMoE: every expert computes all its slots, of which there are about twice as many
    as tokens, and one-hot products carry tokens to slots and back. Tokens beyond the capacity are dropped."""

    def __call__(self, x):
        tokens, num_experts = len(x), len(self.experts)
        capacity = math.floor(TOP_K * CAPACITY_FACTOR * tokens / num_experts)
        capacity = max(capacity + capacity % 2, MIN_CAPACITY)
        probabilities = F.softmax(F.linear(x.float(), self.router), dim=-1)
        weights, ids = probabilities.topk(TOP_K, dim=-1)
        # First choices come before all second ones.
        hits = F.one_hot(ids.t().flatten(), num_experts)
        rank = ((hits.cumsum(0) - 1) * hits).sum(-1)
        kept = rank < capacity
        rows = torch.arange(tokens).repeat(TOP_K)[kept]
        slots = (ids.t().flatten() * capacity + rank)[kept]
        dispatch = torch.zeros(tokens, num_experts * capacity, dtype=x.dtype)
        dispatch[rows, slots] = 1
        combine = torch.zeros_like(dispatch)
        combine[rows, slots] = weights.t().flatten()[kept].to(x.dtype)
        slotted = (dispatch.t() @ x).split(capacity)
        return combine @ torch.cat([expert(part) for expert, part in zip(self.experts, slotted)])


MOE_LAYERS = {"gathered": MoeLayer, "padded": PaddedMoeLayer}


def rms_norm(x, weight):
    y = x.float()
    return weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rotated(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def attend(q, k, v):
    """q [H, T, d] against the keys of this and all earlier positions; OpenMoE does not scale scores."""
    tokens, length = q.shape[1], k.shape[1]
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q * q.shape[-1] ** 0.5, k, v, is_causal=tokens > 1)
    mask = torch.full((tokens, length), -math.inf, dtype=q.dtype).triu(1 + length - tokens)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2))
    return scores.softmax(-1) @ v


class Attention:
    def __init__(self, hidden, heads, head_dim, weights):
        self.heads, self.head_dim = heads, head_dim
        self.qkv = weights(3 * heads * head_dim, hidden)
        self.out = weights(hidden, heads * head_dim)

    def __call__(self, x, position, cache, rope):
        tokens = len(x)
        q, k, v = linear(x, self.qkv).view(tokens, 3, self.heads, self.head_dim).permute(1, 2, 0, 3)
        cos, sin = (table[position : position + tokens] for table in rope)
        end = position + tokens
        cache[0, :, position:end] = rotated(k, cos, sin)
        cache[1, :, position:end] = v
        y = attend(rotated(q, cos, sin), cache[0, :, :end], cache[1, :, :end])
        return linear(y.transpose(0, 1).reshape(tokens, -1), self.out)


class Layer:
    def __init__(self, size, moe, weights):
        hidden, intermediate = size["hiddenSize"], size["intermediateSize"]
        self.norms = [torch.ones(hidden, dtype=weights(1, 1).dtype) for _ in range(3 if moe else 2)]
        self.attention = Attention(hidden, size["numHeads"], size["headDim"], weights)
        self.ffns = [moe(hidden, intermediate, size["numExperts"], weights)] if moe else []
        self.ffns.append(Mlp(hidden, intermediate, weights))  # in a layer of experts the extra one

    def __call__(self, x, position, cache, rope):
        x = x + self.attention(rms_norm(x, self.norms[0]), position, cache, rope)
        for ffn, norm in zip(self.ffns, self.norms[1:]):
            x = x + ffn(rms_norm(x, norm))
        return x


class Model:
    def __init__(self, size, moe, longest, dtype):
        weights = random_weights(dtype)
        hidden, head_dim, interval = size["hiddenSize"], size["headDim"], size["moeLayerInterval"]
        self.embedding = weights(size["vocabSize"], hidden)
        self.head = weights(size["vocabSize"], hidden)
        self.norm = torch.ones(hidden, dtype=dtype)
        self.layers = [Layer(size, moe if (i + 1) % interval == 0 else None, weights) for i in range(size["layers"])]
        self.caches = [torch.zeros(2, size["numHeads"], longest, head_dim, dtype=dtype) for _ in self.layers]
        angles = torch.outer(torch.arange(longest), 10000 ** -(torch.arange(0, head_dim, 2) / head_dim))
        self.rope = angles.cos().to(dtype), angles.sin().to(dtype)

    def logits(self, ids, position):
        x = self.embedding[ids]
        for layer, cache in zip(self.layers, self.caches):
            x = layer(x, position, cache, self.rope)
        return linear(rms_norm(x[-1:], self.norm), self.head)


def main():
    dtype, moe, size = DTYPES[sys.argv[1]], MOE_LAYERS[sys.argv[2]], json.loads(sys.argv[4])
    torch.set_num_threads(int(sys.argv[3]))
    model = Model(size, moe, max(size["context"] + 1, *size["prompts"]), dtype)

    def random_ids(count):
        return torch.randint(size["vocabSize"], (count,))

    def run(tokens, position, runs):
        if position > 0:
            model.logits(random_ids(position), 0)
        prompts = [random_ids(tokens) for _ in range(runs)]
        return [lambda ids=ids: model.logits(ids, position).argmax().item() for ids in prompts]

    serve(run)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
