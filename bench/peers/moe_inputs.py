"""Inputs of the GPU benchmark as bench/gpu/hash_random.h makes them, and its table of ratios. Plain Python: a test
compares these numbers with those of the C++ program, on any machine.
"""

import math
import struct

MASK = 0xFFFFFFFF
BYTE_SUM_DEVIATION = 147.8
ROUTER_SEED, X_SEED, ID_SEED, WEIGHT_SEED, GATE_UP_SEED, DOWN_SEED = 2, 1000, 3000, 4000, 10000, 20000
ROUTINGS = ("uniform", "zipf0.7", "all-to-one")
SHAPES = {"tiny": (128, 64, 8), "8b": (2048, 8192, 32), "34b": (3072, 12288, 32)}  # hidden, intermediate, experts
TOP_K = 2


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def fan_in_scale(features):
    """1 / (deviation * sqrt(features)), rounded as C++ rounds it: every step in f32."""
    return f32(1 / f32(f32(BYTE_SUM_DEVIATION) * f32(math.sqrt(features))))


def mix(z):
    """Also for int64 tensors: a product that overflows keeps its low 32 bits, and those are all that count."""
    z = ((z ^ (z >> 16)) * 0x21F0AAAD) & MASK
    z = ((z ^ (z >> 15)) * 0x735A2D97) & MASK
    return z ^ (z >> 15)


def hash_of(seed, i):
    return mix((mix(seed) + i) & MASK)


def byte_sum(h):
    return (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24) - 510


def random_normal(seed, i, scale):
    return f32(byte_sum(hash_of(seed, i)) * scale)


def random_ids(routing, num_tokens, num_experts, seed):
    """[num_tokens][2] different experts; see bench/gpu/hash_random.h."""
    share = [math.pow(e + 1.0, -0.7) if routing == "zipf0.7" else 1.0 for e in range(num_experts)]
    total = 0.0
    for s in share:
        total += s
    drawn = 0

    def draw():
        nonlocal drawn
        u = hash_of(seed, drawn) * 2.0**-32 * total
        drawn += 1
        for e in range(num_experts - 1):
            if u < share[e]:
                return e
            u -= share[e]
        return num_experts - 1

    ids = []
    for _ in range(num_tokens):
        first, second = (0, 1) if routing == "all-to-one" else (draw(), draw())
        while second == first:
            second = draw()
        ids.append([first, second])
    return ids


def quantile(values, q):
    values = sorted(values)
    return values[int(q * (len(values) - 1) + 0.5)]


def ratio_table(ours, peers):
    """Lines: our median of every (kernel, routing, tokens), and how many times as long each peer takes."""
    names = sorted({row["backend"] for row in peers})
    times = {(r["backend"], r["name"], r["routing"], r["tokens"]): r["medianUs"] for r in peers}
    head = f"{'kernel':<20} {'routing':<11} {'tokens':>6} {'ours us':>10}" + "".join(f" {n:>14}" for n in names)
    lines = [head]
    for row in ours:
        key = (row["name"], row["routing"], row["tokens"])
        if not any((n, *key) in times for n in names):
            continue
        cells = [f"{times[(n, *key)] / row['medianUs']:.2f} x" if (n, *key) in times else "-" for n in names]
        line = f"{row['name']:<20} {row['routing']:<11} {row['tokens']:>6} {row['medianUs']:>10.1f}"
        lines.append(line + "".join(f" {cell:>14}" for cell in cells))
    return lines


def print_random():
    """As `moe_bench --print-random`."""
    scale = fan_in_scale(SHAPES["8b"][0])
    for seed in (2, 1000, 10031):
        for i in (0, 1, 4095, 4000000000):
            bits = struct.unpack("I", struct.pack("f", random_normal(seed, i, scale)))[0]
            bf16 = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            print(f"normal {seed} {i} {bits:08x} {bf16:08x}")
    for routing in ROUTINGS:
        print(f"ids {routing}", *(e for pair in random_ids(routing, 24, 32, ID_SEED) for e in pair))


if __name__ == "__main__":
    print_random()
