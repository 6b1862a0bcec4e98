"""A fused MoE in Triton, as good as we can make it: tokens are gathered inside the first product by rows sorted by
expert and padded to whole blocks (the way of vLLM's fused_moe), SwiGLU in its epilogue or as a kernel of its own.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def align_kernel(ids, sorted_rows, inverse, block_experts, ends, rows, E: tl.constexpr, BM: tl.constexpr, CHUNK: tl.constexpr):
    """One program per expert: its rows in order, padded with `rows` to a multiple of BM. ends[e] is where they end."""
    expert = tl.program_id(0)
    bins = tl.arange(0, E)
    lane = tl.arange(0, CHUNK)
    counts = tl.zeros([E], tl.int32)
    for at in range(0, rows, CHUNK):
        e = tl.load(ids + at + lane, mask=at + lane < rows, other=E)
        counts += tl.sum((e[None, :] == bins[:, None]).to(tl.int32), axis=1)
    padded = (counts + BM - 1) // BM * BM
    start = tl.sum(tl.where(bins < expert, padded, 0), axis=0)
    count = tl.sum(tl.where(bins == expert, counts, 0), axis=0)
    end = start + (count + BM - 1) // BM * BM
    tl.store(ends + expert, end)
    place = start
    for at in range(0, rows, CHUNK):
        row = at + lane
        hit = tl.load(ids + row, mask=row < rows, other=E) == expert
        to = place + tl.cumsum(hit.to(tl.int32), axis=0) - 1
        tl.store(sorted_rows + to, row, mask=hit)
        tl.store(inverse + row, to, mask=hit)
        place += tl.sum(hit.to(tl.int32), axis=0)
    pad = place + tl.arange(0, BM)
    tl.store(sorted_rows + pad, rows, mask=pad < end)
    for at in range(start // BM, end // BM, CHUNK):
        tl.store(block_experts + at + lane, expert, mask=at + lane < end // BM)


@triton.jit
def gemm_kernel(a, w, out, sorted_rows, block_experts, ends, rows, N, K, E: tl.constexpr, DIVIDE: tl.constexpr, GATED: tl.constexpr,
                BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr):
    """out[row] = a[row // DIVIDE] w[expert]^T; GATED: g1 * silu(g2) * up of three such products."""
    pid = tl.program_id(0)
    blocks_n = tl.cdiv(N, BN)
    blocks_m = tl.load(ends + E - 1) // BM
    if pid >= blocks_m * blocks_n:
        return
    width = GROUP * blocks_n  # GROUP row blocks share the weights in L2
    first = pid // width * GROUP
    size = min(blocks_m - first, GROUP)
    m = first + pid % width % size
    n = pid % width // size
    row = tl.load(sorted_rows + m * BM + tl.arange(0, BM))
    valid = row < rows
    expert = tl.load(block_experts + m).to(tl.int64)
    k = tl.arange(0, BK)
    col = n * BN + tl.arange(0, BN)
    a_at = a + (row // DIVIDE).to(tl.int64)[:, None] * K + k[None, :]
    w_at = w + expert * ((3 if GATED else 1) * N * K) + col.to(tl.int64)[None, :] * K + k[:, None]
    acc = tl.zeros([BM, BN], tl.float32)
    if GATED:
        gate = tl.zeros([BM, BN], tl.float32)
        up = tl.zeros([BM, BN], tl.float32)
    for _ in range(0, K, BK):
        x = tl.load(a_at, mask=valid[:, None], other=0.0)
        acc = tl.dot(x, tl.load(w_at), acc)
        if GATED:
            gate = tl.dot(x, tl.load(w_at + N * K), gate)
            up = tl.dot(x, tl.load(w_at + 2 * N * K), up)
        a_at += BK
        w_at += BK
    if GATED:
        acc = acc * (gate * tl.sigmoid(gate)) * up
    tl.store(out + row.to(tl.int64)[:, None] * N + col[None, :], acc.to(out.dtype.element_ty), mask=valid[:, None])


@triton.jit
def swiglu_kernel(x, out, F, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = x + row * 3 * F + col
    a = tl.load(at, mask=col < F).to(tl.float32)
    b = tl.load(at + F, mask=col < F).to(tl.float32)
    up = tl.load(at + 2 * F, mask=col < F).to(tl.float32)
    tl.store(out + row * F + col, (a * (b * tl.sigmoid(b)) * up).to(out.dtype.element_ty), mask=col < F)


@triton.jit
def combine_kernel(y, places, weights, out, D, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(2):
        row = tl.load(places + 2 * token + k).to(tl.int64)
        total += tl.load(weights + 2 * token + k) * tl.load(y + row * D + col, mask=col < D, other=0.0).to(tl.float32)
    tl.store(out + token * D + col, total, mask=col < D)


@triton.jit
def router_kernel(x, w, ids, probabilities, D, E: tl.constexpr, BD: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, E)
    logits = tl.zeros([E], tl.float32)
    for d in range(0, D, BD):
        col = d + tl.arange(0, BD)
        part = tl.load(x + token * D + col, mask=col < D, other=0.0).to(tl.float32)
        rows = tl.load(w + e[:, None] * D + col[None, :], mask=col[None, :] < D, other=0.0)
        logits += tl.sum(rows * part[None, :], axis=1)
    p = tl.exp(logits - tl.max(logits, axis=0))
    p = p / tl.sum(p, axis=0)
    for k in tl.static_range(2):
        best = tl.argmax(p, axis=0)
        tl.store(ids + 2 * token + k, best.to(tl.int32))
        tl.store(probabilities + 2 * token + k, tl.max(p, axis=0))
        p = tl.where(e == best, -1.0, p)


class Aligned:
    """Rows (token * 2 + choice) sorted by expert in blocks of BM rows."""

    def __init__(self, ids, num_experts, block_rows):
        rows = ids.numel()
        self.block_rows, self.rows = block_rows, rows
        self.most_blocks = triton.cdiv(rows + min(rows, num_experts) * (block_rows - 1), block_rows)
        make = lambda count: torch.empty(count, dtype=torch.int32, device=ids.device)
        self.sorted_rows, self.inverse = make(self.most_blocks * block_rows), make(rows)
        self.block_experts, self.ends = make(self.most_blocks), make(num_experts)
        align_kernel[(num_experts,)](ids, self.sorted_rows, self.inverse, self.block_experts, self.ends, rows, E=num_experts,
                                     BM=block_rows, CHUNK=256, num_warps=8)


def fused_gemm(a, w, aligned, divide, gated, config):
    """Rows of the result are in the order of the choices, not sorted."""
    out_features = w.shape[1] // 3 if gated else w.shape[1]
    out = torch.empty((aligned.rows, out_features), dtype=a.dtype, device=a.device)
    if POISON:
        out.fill_(float("nan"))
    grid = (aligned.most_blocks * triton.cdiv(out_features, config["BN"]),)
    gemm_kernel[grid](a, w, out, aligned.sorted_rows, aligned.block_experts, aligned.ends, aligned.rows, out_features, a.shape[-1],
                      E=w.shape[0], DIVIDE=divide, GATED=gated, BM=aligned.block_rows, BN=config["BN"], BK=config["BK"],
                      GROUP=config["GROUP"], num_warps=config["warps"], num_stages=config["stages"])
    return out


POISON = False  # on while results are checked, so that an element nobody wrote is found


def swiglu(x):
    rows, features = x.shape[0], x.shape[1] // 3
    out = torch.empty((rows, features), dtype=x.dtype, device=x.device)
    swiglu_kernel[(rows, triton.cdiv(features, 1024))](x, out, features, BLOCK=1024)
    return out


def combine(y, places, weights, num_tokens):
    out = torch.empty((num_tokens, y.shape[1]), dtype=torch.float32, device=y.device)
    combine_kernel[(num_tokens, triton.cdiv(y.shape[1], 1024))](y, places, weights, out, y.shape[1], BLOCK=1024)
    return out


def router(x, w):
    ids = torch.empty((x.shape[0], 2), dtype=torch.int32, device=x.device)
    probabilities = torch.empty((x.shape[0], 2), dtype=torch.float32, device=x.device)
    router_kernel[(x.shape[0],)](x, w, ids, probabilities, x.shape[1], E=w.shape[0], BD=256)
    return ids, probabilities


def configs(rows_per_expert):
    """The whole grid, what vLLM's tuned files choose for such sizes first: tuning may run out of time."""
    near = min((16, 32, 64, 128), key=lambda bm: abs(bm - max(16, rows_per_expert)))

    def unlikeliness(c):
        return (abs(c["BM"] - near) / near, abs(c["BN"] - (128 if near < 128 else 256)), abs(c["BK"] - (128 if near < 64 else 64)),
                abs(c["stages"] - 4), abs(c["warps"] - (4 if near < 128 else 8)))

    grid = [{"BM": bm, "BN": bn, "BK": bk, "stages": s, "warps": warps, "GROUP": 16 if near == 128 else 1}
            for bm in (16, 32, 64, 128) for bn in (64, 128, 256) for bk in (64, 128) for s in (3, 4, 5) for warps in (4, 8)]
    return sorted(grid, key=unlikeliness)
