"""Other ways to compute the MoE layer, timed on the same GPU as `moe_bench` and on the same weights and routes: needs
torch and Triton, nothing else. `python3 bench/peers/moe_peers.py --help`; docs/cuda.md, 'Measuring on a GPU'.
"""

import argparse
import json
import os
import sys
import time

import moe_inputs as inputs

SETS = 8  # activations rotate, as in moe_bench
WARM_UPS, SAMPLES, FEWEST_SAMPLES = 20, 100, 10
MOST_RELATIVE_ERROR = 1e-2
CHECKED_TOKENS = 32
MOST_BYTES = 24 << 30  # of one peer's own buffers

INTERPRET = "--interpret" in sys.argv
if INTERPRET:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
DEVICE = "cpu" if INTERPRET else "cuda"

try:
    import torch
    import torch.nn.functional as F
    import triton_moe as ours_in_triton
except ImportError as error:
    torch, MISSING = None, f"python3 at {sys.executable} has no {error.name}"

# Triton's interpreter multiplies the bit patterns of bf16 (seen in 3.8), so there f32 stands in.
DTYPE = torch and (torch.float32 if INTERPRET else torch.bfloat16)


def random_tensor(seed, shape, scale, dtype):
    count = 1
    for size in shape:
        count *= size
    h = inputs.hash_of(seed, torch.arange(count, dtype=torch.int64, device=DEVICE))
    return (inputs.byte_sum(h).float() * scale).to(dtype).view(shape)


class Layer:
    def __init__(self, shape):
        self.hidden, self.intermediate, self.experts = inputs.SHAPES[shape]
        d, f, e = self.hidden, self.intermediate, self.experts
        scale_in, scale_out = inputs.fan_in_scale(d), inputs.fan_in_scale(f)
        self.router = random_tensor(inputs.ROUTER_SEED, (e, d), scale_in, torch.float32)
        self.gate_up = torch.empty((e, 3 * f, d), dtype=DTYPE, device=DEVICE)
        self.down = torch.empty((e, d, f), dtype=DTYPE, device=DEVICE)
        for i in range(e):
            self.gate_up[i] = random_tensor(inputs.GATE_UP_SEED + i, (3 * f, d), scale_in, DTYPE)
            self.down[i] = random_tensor(inputs.DOWN_SEED + i, (d, f), scale_out, DTYPE)

    def reference(self, s, tokens):
        """The first tokens of a set in f32, one choice after the other."""
        out = torch.zeros((tokens, self.hidden), device=DEVICE)
        for t in range(tokens):
            for k in range(inputs.TOP_K):
                expert = s.id_list[t][k]
                a, b, up = (self.gate_up[expert].float() @ s.x[t].float()).chunk(3)
                out[t] += s.weights[t, k] * (self.down[expert].float() @ (a * F.silu(b) * up))
        return out


class ActivationSet:
    def __init__(self, layer, tokens, routing, number):
        unit = inputs.f32(1 / inputs.f32(inputs.BYTE_SUM_DEVIATION))
        self.x = random_tensor(inputs.X_SEED + number, (tokens, layer.hidden), unit, DTYPE)
        self.weights = random_tensor(inputs.WEIGHT_SEED + number, (tokens, inputs.TOP_K), unit, torch.float32)
        self.id_list = inputs.random_ids(routing, tokens, layer.experts, inputs.ID_SEED + number)
        self.ids = torch.tensor(self.id_list, dtype=torch.int32, device=DEVICE).flatten()
        counts = torch.bincount(self.ids.long(), minlength=layer.experts)
        # What a padded product or a loop has to know on the host; no peer is charged for learning it.
        self.counts = counts.tolist()
        self.most = max(self.counts)
        self.aligned = ours_in_triton.Aligned(self.ids, layer.experts, 1)
        self.sorted = self.aligned.sorted_rows.long()
        expert_of = self.ids.long()[self.sorted]
        first = torch.cumsum(counts, 0) - counts
        self.slots = expert_of * self.most + torch.arange(self.ids.numel(), device=DEVICE) - first[expert_of]

    def prepare(self, layer):
        """What a product that is timed alone is given."""
        rows = self.ids.numel()
        self.gathered = self.x[self.sorted // inputs.TOP_K]
        self.hidden = torch.randn((rows, layer.intermediate), device=DEVICE).to(DTYPE)
        self.in_order = torch.arange(rows, dtype=torch.int32, device=DEVICE)


def grouped_mm(x, w, s):
    product = getattr(F, "grouped_mm", None) or torch._grouped_mm
    return product(x, w.transpose(1, 2), offs=s.aligned.ends)


def padded_bmm(x, w, s):
    padded = torch.empty((w.shape[0], s.most, x.shape[1]), dtype=x.dtype, device=DEVICE)
    padded.view(-1, x.shape[1]).index_copy_(0, s.slots, x)
    return torch.bmm(padded, w.transpose(1, 2)).view(-1, w.shape[1]).index_select(0, s.slots)


def loop_of_mm(x, w, s):
    out = torch.empty((x.shape[0], w.shape[1]), dtype=x.dtype, device=DEVICE)
    at = 0
    for expert, count in enumerate(s.counts):
        if count:
            torch.mm(x[at : at + count], w[expert].t(), out=out[at : at + count])
        at += count
    return out


def dense_mm(x, w, s):
    """As many FLOPs through one dense product: not the layer, but what cuBLAS makes of its arithmetic."""
    return torch.mm(x, w[0].t())


class TorchPeer:
    """Rows sorted by expert by one kernel, gathered, two products around an activation, combined by one kernel."""

    def __init__(self, name, gemm, layer):
        self.name, self.gemm, self.layer = name, gemm, layer
        self.right = gemm is not dense_mm

    def fits(self, s):
        rows = self.layer.experts * s.most if self.gemm is padded_bmm else s.ids.numel()
        return rows * 4 * self.layer.intermediate * 2 <= MOST_BYTES

    def parts(self):
        layer, triton = self.layer, ours_in_triton
        gate_up = lambda x, s: triton.swiglu(self.gemm(x, layer.gate_up, s))

        def whole(s):
            triton.router(s.x, layer.router)
            aligned = triton.Aligned(s.ids, layer.experts, 1)
            x = s.x.index_select(0, aligned.sorted_rows.long() // inputs.TOP_K)
            return triton.combine(self.gemm(gate_up(x, s), layer.down, s), aligned.inverse, s.weights, s.x.shape[0])

        return {
            "moe_layer": whole,
            "grouped_gemm_swiglu": lambda s: gate_up(s.gathered, s),
            "grouped_gemm": lambda s: self.gemm(s.hidden, layer.down, s),
        }


class TritonPeer:
    """bench/peers/triton_moe.py, tuned for this number of tokens: each product alone, then the first fused or not."""

    name, right = "triton", True

    def __init__(self, layer, sets, seconds):
        self.layer, self.tried = layer, 0
        s = sets[0]
        rows = s.ids.numel()
        hidden = torch.randn((rows, layer.intermediate), device=DEVICE).to(DTYPE)
        makers = {
            "fused": lambda c: self.first_product(s, self.align(s, c), c, True),
            "separate": lambda c: self.first_product(s, self.align(s, c), c, False),
            "down": lambda c: ours_in_triton.fused_gemm(hidden, layer.down, self.align(s, c), 1, False, c),
        }
        best = {kind: self.tune(make, rows / layer.experts, seconds / 3) for kind, make in makers.items()}
        self.is_fused = best["fused"][0] <= best["separate"][0]
        self.first, self.second = best["fused" if self.is_fused else "separate"][1], best["down"][1]
        self.tuning = {"configsTried": self.tried, "fusedActivation": self.is_fused, "first": self.first, "second": self.second}

    def align(self, s, config):
        return ours_in_triton.Aligned(s.ids, self.layer.experts, config["BM"])

    def first_product(self, s, aligned, config, is_fused):
        out = ours_in_triton.fused_gemm(s.x, self.layer.gate_up, aligned, inputs.TOP_K, is_fused, config)
        return out if is_fused else ours_in_triton.swiglu(out)

    def tune(self, make, rows_per_expert, seconds):
        start, best = time.monotonic(), (float("inf"), None)
        for config in ours_in_triton.configs(rows_per_expert):
            if best[1] and time.monotonic() - start > seconds:
                break
            try:
                us = quick_time(lambda: make(config))
            except Exception:  # more shared memory or registers than there are: no choice
                continue
            self.tried += 1
            best = min(best, (us, config), key=lambda pair: pair[0])
        if best[1] is None:
            raise RuntimeError("no Triton configuration runs")
        return best

    def fits(self, s):
        return True

    def parts(self):
        layer, triton = self.layer, ours_in_triton

        def whole(s):
            triton.router(s.x, layer.router)
            aligned = self.align(s, self.first)
            hidden = self.first_product(s, aligned, self.first, self.is_fused)
            if self.second["BM"] != self.first["BM"]:
                aligned = self.align(s, self.second)
            y = triton.fused_gemm(hidden, layer.down, aligned, 1, False, self.second)
            return triton.combine(y, s.in_order, s.weights, s.x.shape[0])

        return {
            "moe_layer": whole,
            "grouped_gemm_swiglu": lambda s: self.first_product(s, self.align(s, self.first), self.first, self.is_fused),
            "grouped_gemm": lambda s: triton.fused_gemm(s.hidden, layer.down, self.align(s, self.second), 1, False, self.second),
        }


def elapsed(run):
    """Microseconds of run() on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def quick_time(run):
    run()
    torch.cuda.synchronize()
    return min(elapsed(run) for _ in range(5))


def timings(body, sets, budget_us):
    """Microseconds per set, and whether a CUDA graph was replayed."""
    everything = lambda: [body(s) for s in sets]
    everything()
    torch.cuda.synchronize()
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = everything()  # outputs live as long as the graph
        run, is_graph = graph.replay, True
    except Exception:  # a peer that asks the host something in between
        torch.cuda.synchronize()
        run, is_graph, kept = everything, False, None
    once = max(1.0, elapsed(run))
    samples = int(min(max(budget_us / once, FEWEST_SAMPLES), SAMPLES))
    for _ in range(min(WARM_UPS, samples)):
        run()
    us = [elapsed(run) / len(sets) for _ in range(samples)]
    del kept
    return us, is_graph


def relative_error(got, want):
    return ((got.float() - want).norm() / want.norm()).item()


def check(peer, s, layer):
    """Why the peer's layer is wrong, or None. NaN fails too."""
    if not peer.right:
        return None
    tokens = min(CHECKED_TOKENS, s.x.shape[0])
    ours_in_triton.POISON = True
    try:
        error = relative_error(peer.parts()["moe_layer"](s)[:tokens], layer.reference(s, tokens))
    finally:
        ours_in_triton.POISON = False
    return None if error <= MOST_RELATIVE_ERROR else f"relative error {error:.3g}"


def interpret():
    """Every peer that is right must be, on the CPU: kernels through Triton's interpreter, no times."""
    layer, wrong = Layer("tiny"), 0
    for tokens, routing in ((1, "uniform"), (37, "zipf0.7"), (20, "all-to-one")):
        s = ActivationSet(layer, tokens, routing, 0)
        s.prepare(layer)
        triton = TritonPeer.__new__(TritonPeer)
        triton.layer, triton.is_fused = layer, tokens != 37
        triton.first = {"BM": 16, "BN": 64, "BK": 64, "stages": 3, "warps": 4, "GROUP": 4}
        triton.second = {**triton.first, "BM": 32, "GROUP": 1}
        for peer in (triton, *torch_peers(layer)):
            try:
                why = check(peer, s, layer)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
            wrong += why is not None
            print(f"{peer.name}, {tokens} tokens, {routing}: {why or 'ok' if peer.right else 'not the layer'}")
    return wrong


def torch_peers(layer):
    named = (("grouped_mm", grouped_mm), ("padded_bmm", padded_bmm), ("mm_loop", loop_of_mm), ("dense_mm", dense_mm))
    return [TorchPeer(name, gemm, layer) for name, gemm in named]


def measure(args):
    layer, rows, problems = Layer(args.shape), [], []
    share, deadline = args.seconds / (len(args.tokens) * len(args.routings)), time.monotonic() + args.seconds
    for tokens in args.tokens:
        for routing in args.routings:
            if time.monotonic() > deadline:
                problems.append(f"{tokens} tokens, {routing}: not measured, the {args.seconds:.0f} seconds were over")
                continue
            sets = [ActivationSet(layer, tokens, routing, number) for number in range(SETS)]
            for s in sets:
                s.prepare(layer)
            makers = [lambda: TritonPeer(layer, sets, share / 2), *(lambda peer=peer: peer for peer in torch_peers(layer))]
            for make in makers:
                where = f"{tokens} tokens, {routing}"
                try:
                    peer = make()
                    where = f"{peer.name}, {where}"
                    if not all(peer.fits(s) for s in sets):
                        problems.append(f"{where}: not run, its padding takes more than {MOST_BYTES >> 30} GiB")
                        continue
                    wrong = check(peer, sets[0], layer)
                    if wrong:
                        raise RuntimeError(wrong)
                    for name, body in peer.parts().items():
                        us, is_graph = timings(body, sets, share * 1e6 / 40)
                        rows.append({
                            "name": name, "backend": peer.name, "shape": args.shape, "dtype": "bf16", "tokens": tokens, "routing": routing,
                            "medianUs": inputs.quantile(us, 0.5), "p10Us": inputs.quantile(us, 0.1), "p90Us": inputs.quantile(us, 0.9),
                            "samples": len(us), "cudaGraph": is_graph, **getattr(peer, "tuning", {}),
                        })
                        print(f"{peer.name:<12} {name:<20} {where}: {rows[-1]['medianUs']:.1f} us", flush=True)
                except Exception as error:  # one peer that fails must not cost the others
                    problems.append(f"{where}: {type(error).__name__}: {str(error)[:300]}")
                write(args.json, {"schema": 1, **about(), "sets": SETS, "problems": problems, "results": rows})
    for problem in problems:
        print(problem)
    return rows


def about():
    return {"device": torch.cuda.get_device_name(0), "torch": torch.__version__, "cuda": torch.version.cuda}


def measure_matmul(file):
    """The roof of dense bf16 products, on random numbers: zeros run faster."""
    a, b = (torch.randn((8192, 8192), device=DEVICE).to(DTYPE) for _ in range(2))
    for _ in range(5):
        a @ b
    us = [elapsed(lambda: a @ b) for _ in range(30)]
    rate = 2 * 8192**3 / inputs.quantile(us, 0.5) * 1e6
    write(file, {"schema": 1, **about(), "size": 8192, "flopsPerSecond": rate})
    print(f"{rate / 1e12:.0f} TFLOP/s")


def write(file, value):
    if file:
        with open(file, "w", encoding="utf-8") as out:
            json.dump(value, out, indent=1)


def numbers(text):
    return [int(item) for item in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(inputs.SHAPES), default="8b")
    parser.add_argument("--tokens", type=numbers, default=[1, 4, 16, 64, 256, 1024, 4096, 16384])
    parser.add_argument("--routings", type=lambda text: text.split(","), default=["uniform"])
    parser.add_argument("--seconds", type=float, default=500, help="for everything; half of it tunes Triton. All its configurations take some 600 s per number of tokens")
    parser.add_argument("--matmul", metavar="FILE", help="measures only the roof of dense products")
    parser.add_argument("--interpret", action="store_true", help="checks the peers on the CPU through Triton's interpreter")
    parser.add_argument("--ours", metavar="FILE", help="JSON of moe_bench, for the table of ratios")
    parser.add_argument("--json", metavar="FILE", help="where the rows go")
    args = parser.parse_args()
    if torch is not None and args.interpret:
        sys.exit(1 if interpret() else 0)
    if torch is None or not torch.cuda.is_available():
        print(MISSING if torch is None else "torch sees no GPU")
        sys.exit(77)
    if args.matmul:
        return measure_matmul(args.matmul)
    rows = measure(args)
    if args.ours:
        with open(args.ours, encoding="utf-8") as file:
            print("\n".join(inputs.ratio_table(json.load(file)["results"], rows)))
    sys.exit(0 if rows else 1)


if __name__ == "__main__":
    main()
