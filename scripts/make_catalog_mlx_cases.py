#!/usr/bin/env python3
"""Writes tests/data/catalog_mlx.json: results, gradients and second derivatives of the rows of the catalog by MLX on the CPU, in float32.

Needs mlx and numpy. Operands and the form of cases are those of make_catalog_cases.py, whose values come from NumPy in float64; here
MLX's own functions are used where it has them (benchmarks/peers/peer_functions.py), else its operations. Of each row: a small case with
the gradients of mx.vjp, a large one of more than a million elements of which every so many are stored with two sums over all, and special
numbers.
"""
import json
import pathlib
import sys

import mlx.core as mx
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks" / "peers")]
import make_catalog_cases as base  # noqa: E402
import peer_functions as peers  # noqa: E402
from make_catalog_cases import F, I, N, X, affine  # noqa: E402

KEPT = 24  # elements of a large result
cases = []
silu, gelu = peers._silu, peers._gelu


# ---- rows as MLX functions of (operands..., parameters) -> results ----


def peer(name, **names):
    """The function of peer_functions with parameters by name."""
    f = peers.MLX[name]
    keys = list(names)
    def call(*a):
        k = len(a) - len(keys)
        y = f(mx, list(a[:k]), dict(zip(keys, a[k:])))
        return tuple(y) if isinstance(y, (tuple, list)) else (y,)
    return call


def plain_rms(x, eps):
    return x * mx.rsqrt((x * x).mean(-1, keepdims=True) + eps)


def plain_ln(x, eps):
    d = x - x.mean(-1, keepdims=True)
    return d * mx.rsqrt((d * d).mean(-1, keepdims=True) + eps)


def kept(shape, p, seed):
    n = int(np.prod(shape))
    u = (mx.arange(n).astype(mx.uint32) + mx.array(int(seed), mx.uint32)) * mx.array(1664525, mx.uint32) + mx.array(1013904223, mx.uint32)
    u = mx.bitwise_and(u, mx.array(0xFFFFFF, mx.uint32)).astype(mx.float32) / 2**24
    return (u >= p).astype(mx.float32).reshape(shape) / (1 - p)


def largest(x, k):
    return mx.stop_gradient(mx.argsort(-x, axis=-1)[..., : int(k)])


def topk(x, k):
    i = largest(x, k)
    return mx.take_along_axis(x, i, axis=-1), i


def gating(x, k):
    v, i = topk(x, k)
    return mx.softmax(v, axis=-1), i


def topk_gating(x, *rest):
    bias, (k, norm) = (rest[0] if len(rest) == 3 else None), rest[-2:]
    if bias is None and norm:
        return gating(x, k)
    s = mx.softmax(x, axis=-1) + (0 if bias is None else bias)
    i = largest(s, k)
    w = mx.take_along_axis(s, i, axis=-1)
    return (w / (w.sum(-1, keepdims=True) + 1e-20) if norm else w), i


def deepseek(x, bias, k, groups, top):
    a = mx.sigmoid(x)
    i = largest(a + bias, k)
    w = mx.take_along_axis(a, i, axis=-1)
    return w / w.sum(-1, keepdims=True), i


def dispatch(x, idx, experts):
    flat = idx.reshape(-1)
    order = mx.argsort(flat)
    offsets = (flat[None] < mx.arange(int(experts) + 1)[:, None]).astype(mx.int32).sum(-1)
    return x[order // idx.shape[1]], mx.argsort(order).reshape(idx.shape), order, offsets


def codes(words, bits):
    shifts = mx.arange(0, 32, int(bits)).astype(mx.uint32)
    q = mx.bitwise_and(mx.right_shift(words[..., None], shifts), mx.array(2 ** int(bits) - 1, mx.uint32))
    return q.reshape(*words.shape[:-1], -1)


def widened(w, s, b, bits, group):
    """The values of a matrix as a composition that has gradients by scales and biases."""
    q = codes(w, bits).astype(mx.float32)
    return q * mx.repeat(s, int(group), axis=-1) + mx.repeat(b, int(group), axis=-1)


def blocks(x, s, block):
    return (x.reshape(-1) * mx.repeat(s, int(block))[: x.size]).reshape(x.shape)


def gemv(x, *a):
    bits, group = a[6], a[7]
    g, u = widened(*a[0:3], bits, group), widened(*a[3:6], bits, group)
    return (silu(mx, x @ g.T) * (x @ u.T),)


def gathered(x, gw, gs, gb, uw, us, ub, lhs, rhs, bits, group):
    g, u = widened(gw, gs, gb, bits, group), widened(uw, us, ub, bits, group)
    return (silu(mx, x[lhs] @ g[rhs].swapaxes(-1, -2)) * (x[lhs] @ u[rhs].swapaxes(-1, -2)),)


def decoded(x, gw, gs, gb, uw, us, ub, at, bits, group):
    g, u = widened(gw, gs, gb, bits, group), widened(uw, us, ub, bits, group)
    v = x[:, None, None, :]
    return ((silu(mx, v @ g[at].swapaxes(-1, -2)) * (v @ u[at].swapaxes(-1, -2)))[..., 0, :],)


def dense(act, w, gate, idx, kind):
    return (((act[:, :, None, :] @ w[idx])[:, :, 0] * gate[..., None]).sum(-2),)


def quantized(act, w, s, b, gate, idx, kind, bits, group):
    return dense(act, widened(w, s, b, bits, group).swapaxes(-1, -2), gate, idx, kind)


def by_mlx_kernels(act, w, s, b, gate, idx, kind, bits, group):
    y = mx.gather_qmm(act[:, :, None, :], w, s, b, rhs_indices=idx, transpose=True, group_size=int(group), bits=int(bits))
    return ((y[:, :, 0] * gate[..., None]).sum(-2),)


def nibbles(x):
    return mx.stack([mx.bitwise_and(x, 15), mx.right_shift(x, 4)], axis=-1).reshape(*x.shape[:-1], -1).astype(mx.int32)


NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def between(n, to):
    at = (mx.arange(to) + 0.5) * (n / to) - 0.5
    low = mx.floor(at)
    part = at - low
    m = mx.zeros((to, n))
    rows = mx.arange(to)
    m = m.at[rows, mx.clip(low, 0, n - 1).astype(mx.int32)].add(1 - part)
    return m.at[rows, mx.clip(low + 1, 0, n - 1).astype(mx.int32)].add(part)


def resize(x, h, w):
    return (mx.einsum("yh,xw,nhwc->nyxc", between(x.shape[1], int(h)), between(x.shape[2], int(w)), x),)


def rotated(x, c, s):
    return peers._rotate(mx, x, c, s)


def cached(q, k, v, c, s, kc, vc, at):
    b = mx.arange(at.shape[0])
    cc, ss = c[at][:, None], s[at][:, None]
    return rotated(q, cc, ss), kc.at[b, at].add(rotated(k, cc, ss) - kc[b, at]), vc.at[b, at].add(v - vc[b, at])


def paged_cached(q, k, v, c, s, kc, vc, at, table):
    b, size = mx.arange(at.shape[0]), kc.shape[1]
    block, row = table[b, at // size], at % size
    cc, ss = c[at][:, None], s[at][:, None]
    return rotated(q, cc, ss), kc.at[block, row].add(rotated(k, cc, ss) - kc[block, row]), vc.at[block, row].add(v - vc[block, row])


def joined(qn, qr, kn, kr, c, s, offset=None):
    if offset is not None:
        c, s = c[int(abs(offset))], s[int(abs(offset))] * (1 if offset >= 0 else -1)
    turn = lambda x: peers._rotate_pairs(mx, x, c, s)  # noqa: E731
    return mx.concatenate([qn, turn(qr)], axis=-1), mx.concatenate([kn, turn(kr)], axis=-1)


def paged(q, k, v, table, lens, scale):
    b, h, d = q.shape
    share = h // k.shape[2]
    f = [mx.repeat(a[table].reshape(b, -1, a.shape[2], d).transpose(0, 2, 1, 3), share, axis=1) for a in (k, v)]
    seen = (mx.arange(f[0].shape[2])[None] < lens[:, None])[:, None, None]
    p = (q[:, :, None] @ f[0].swapaxes(-1, -2)) * (scale or d**-0.5)
    return ((mx.softmax(mx.where(seen, p, -mx.inf), axis=-1) @ f[1])[:, :, 0],)


def attention(q, k, v, *rest):
    *more, scale, causal = rest
    mask = "causal" if causal else more[0] if more else None
    sinks = more[1] if len(more) > 1 else None
    return (mx.fast.scaled_dot_product_attention(q, k, v, scale=scale or q.shape[-1] ** -0.5, mask=mask, sinks=sinks),)


def masked(x, mask, scale=1.0):
    e = mx.where(mask, mx.exp(scale * x - (scale * x).max(-1, keepdims=True)), 0)
    return (e / e.sum(-1, keepdims=True),)


def project(kv, basis, bits, group):
    c = mx.einsum("shd,hdr->shr", kv, basis).reshape(-1, int(group))
    least, most = c.min(-1, keepdims=True), c.max(-1, keepdims=True)
    scale = (most - least) / (2 ** int(bits) - 1)
    q = mx.clip(mx.round((c - least) / scale), 0, 2 ** int(bits) - 1).astype(mx.uint32).reshape(-1, 32 // int(bits))
    words = mx.left_shift(q, mx.arange(0, 32, int(bits)).astype(mx.uint32)).sum(-1)
    return words, scale.reshape(-1), least.reshape(-1)


def coefficients(w, s, z, bits, group, S, H, R):
    q = codes(w, bits).reshape(-1)[: s.shape[0] * int(group)].astype(mx.float32)
    return (q * mx.repeat(s, int(group)) + mx.repeat(z, int(group)))[: int(S * H * R)].reshape(int(S), int(H), int(R))


def ttt(xq, xk, xv, lr, token, last, W, b, WG, bG, lw, lb):
    eps, f = 1e-6, xq.shape[-1]
    z = (xk[:, None] @ W)[:, 0] + b
    d0 = z - z.mean(-1, keepdims=True)
    r = mx.rsqrt((d0 * d0).mean(-1, keepdims=True) + eps)
    h = d0 * r
    d = (lw * h + lb - (xv - xk)) * lw
    g = lr[:, None] * (f * d - d.sum(-1, keepdims=True) - h * (d * h).sum(-1, keepdims=True)) * r / f
    WG, bG = WG + xk[:, :, None] * g[:, None], bG + g
    W2, b2 = W - token * WG, b - token * bG
    out = xq + lw * plain_ln((xq[:, None] @ W2)[:, 0] + b2, eps) + lb
    return (out, W2, b2, WG * 0, bG * 0) if int(last[0]) > 0 else (out, W, b, WG, bG)


def ttt_layer(x, proj, W, b, lw, lb, lr_bias, token_bias, pw, pb, out, heads, base_lr, position):
    (a, n, d), h, m = x.shape, int(heads), token_bias.size
    rows = x @ proj.T
    q, k, v = (rows[..., i * d : i * d + d].reshape(a, n, h, -1).swapaxes(1, 2).reshape(a * h, n, -1) for i in range(3))
    lr = (base_lr * h / d * mx.sigmoid(rows[..., 3 * d :] + lr_bias)).swapaxes(1, 2).reshape(a * h, n)
    W, b, lw, lb = mx.tile(W, (a, 1, 1)), mx.tile(b, (a, 1)), mx.tile(lw, (a, 1)), mx.tile(lb, (a, 1))
    state, y = [W, b, W * 0, b * 0], []
    for t in range(n):
        token = mx.maximum(1 / (t % m + 1) + token_bias[t % m], 0)
        one, *state = ttt(q[:, t], k[:, t], v[:, t], lr[:, t], token, [t % m == m - 1], *state, lw, lb)
        y.append(one)
    y = mx.stack(y, 1).reshape(a, h, n, -1).swapaxes(1, 2).reshape(a, n, d)
    return (mx.fast.layer_norm(y, pw, pb, 1e-5) @ out.T, *(s.reshape(a, h, *s.shape[1:]) for s in state))


EPS = {"eps": 1}
OWN = {
    "elu": lambda x, alpha: (mx.where(x > 0, x, alpha * (mx.exp(mx.minimum(x, 0)) - 1)),),
    "elu_grad": lambda x, g, alpha: (mx.vjp(lambda v: mx.where(v > 0, v, alpha * (mx.exp(mx.minimum(v, 0)) - 1)), [x], [g])[1][0],),
    "layer_norm_dropout": lambda x, w, b, p, seed, eps: (mx.fast.layer_norm(x, w, b, eps) * kept(x.shape, p, seed),),
    "rms_norm_dropout": lambda x, w, p, seed, eps: (mx.fast.rms_norm(x, w, eps) * kept(x.shape, p, seed),),
    "dropout": lambda x, p, seed: (x * kept(x.shape, p, seed),),
    "mean_lastdim": lambda x, kahan: (x.mean(-1),),
    "std_lastdim": lambda x, eps: (mx.sqrt(mx.var(x, axis=-1) + eps),),
    "topk_lastdim": topk,
    "top2_gating_softmax": lambda x: gating(x, 2),
    "topk_gating_softmax": topk_gating,
    "router_argpartition_logits_topk": gating,
    "glm_topk_gating": gating,
    "deepseek_router_topk_sigmoid": deepseek,
    "moe_dispatch": dispatch,
    "masked_softmax": masked,
    "scale_mask_softmax": masked,
    "softmax_cross_entropy": lambda x, t, ignored: (peers._cross_entropy(mx, [x, t]),),
    "softmax_cross_entropy_grad": lambda x, t, g, ignored: tuple(peers._cross_entropy_grad(mx, [x, t, g])),
    "dequantize_int4": lambda x, s: ((lambda c: mx.where(c < 8, c, c - 16) * s)(nibbles(x)),),
    "dequantize_nf4": lambda x, s: (mx.array(NF4)[nibbles(x)] * s,),
    "dequantize_fp8": lambda x, s, variant: (mx.from_fp8(x, mx.float32) * s,),
    "dequantize_affine_packed": lambda *a: (widened(*a),),
    "dequantize_affine_packed_silu": lambda *a: (silu(mx, widened(*a)),),
    "dequantize_affine_packed_gelu": lambda *a: (gelu(mx, widened(*a)),),
    "dequantize_affine_packed_hi2": lambda w, s, b, group: (
        mx.bitwise_and(codes(w, 4), mx.array(12, mx.uint32)).astype(mx.float32) * mx.repeat(s, int(group), axis=-1)
        + mx.repeat(b, int(group), axis=-1),),
    "dequantize_affine_packed_lo2_delta": lambda w, s, group: (
        mx.bitwise_and(codes(w, 4), mx.array(3, mx.uint32)).astype(mx.float32) * mx.repeat(s, int(group), axis=-1),),
    "fused_swiglu_quant": lambda a, s, b, t, block: (silu(mx, blocks(a, s, block)) * blocks(b, t, block),),
    "dequantize_blockwise": lambda x, s, block, bits: (blocks(x, s, block),),
    "fused_quantized_swiglu_gemv": gemv,
    "fused_quantized_swiglu_gemv_progressive": lambda *a: gemv(*a[:-2]),
    "resize_bilinear": resize,
    "apply_gqa_rope": lambda x, c, s, kv: (rotated(x, c[:, None], s[:, None]),),
    "rope_and_cache_update": cached,
    "paged_rope_and_cache_update": paged_cached,
    "rope_concat_qk_decode": joined,
    "rope_concat_qk_decode_pos": joined,
    "paged_attention": paged,
    "scaled_dot_product_attention": attention,
    "skv_fused_project_quantize": project,
    "skv_fused_dequantize_unproject": lambda w, s, z, basis, *p: (mx.einsum("shr,hdr->shd", coefficients(w, s, z, *p), basis),),
    "skv_compressed_attention": lambda w, s, z, q, *p: (p[-1] * mx.einsum("qhr,khr->hqk", q, coefficients(w, s, z, *p[:-1])),),
    "fused_scatter_add": lambda i, u, rows: (mx.zeros((int(rows), *u.shape[1:])).at[i].add(u),),
    "adamw_step": lambda p, g, m, v, lr, step, b1, b2, eps, wd: peers._adamw(
        mx, [p, g, m, v], {"beta1": b1, "beta2": b2, "step": step, "lr": lr, "eps": eps, "weight_decay": wd}),
    "rmsnorm_grad": lambda x, w, c, eps: (mx.vjp(lambda v: plain_rms(v, eps) * w, [x], [c])[1][0],),
    "gather_mmk_combine": dense,
    "gather_qmm_combine": dense,
    "gather_qmmk_combine_quantized": quantized,
    "gather_qmm_combine_quantized": quantized,
    "gather_qmm_swiglu": gathered,
    "fused_swiglu_gather_qmv": decoded,
    "ttt_linear_decode": ttt,
    "ttt_linear": ttt_layer,
}
PARAMETERS = {"depth_gate_sigmoid": {"k_max": 1}}
# Instead of MLX's fast functions, whose gradients are not differentiable there.
TWICE = {
    "rmsnorm": lambda x, w, eps: (plain_rms(x, eps) * w,),
    "glm_rmsnorm": lambda x, w, eps: (plain_rms(x, eps) * w,),
    "rms_norm_no_weight": lambda x, eps: (plain_rms(x, eps),),
    "layernorm": lambda x, w, b, eps: (plain_ln(x, eps) * w + b,),
    "layer_norm_no_weight": lambda x, eps: (plain_ln(x, eps),),
    "residual_rmsnorm": lambda x, r, w, eps: (plain_rms(x + r, eps) * w,),
    "add_rms_norm": lambda x, r, w, eps: (plain_rms(x + r, eps) * w, x + r),
    "layernorm_residual": lambda x, r, w, b, eps: (plain_ln(x + r, eps) * w + b, x + r),
}


def function_of(row, count):
    if row in OWN:
        return OWN[row]
    return peer(row, **(PARAMETERS.get(row) or (EPS if count else {})))


# ---- cases ----


def value_of(o):
    t = o.spec["t"]
    kind = mx.float32 if t in ("T", "float32") else {"bool": mx.bool_}.get(t) or getattr(mx, t)
    return mx.array(o.value.astype(np.float32 if kind == mx.float32 else o.value.dtype)).astype(kind)


def flat(y):
    return np.array(y.astype(mx.float32) if y.dtype in (mx.float16, mx.bfloat16) else y)


def short(v, digits=7):
    v = float(v)
    return str(v) if not np.isfinite(v) else float(f"{v:.{digits}g}")


def sums(v):
    """Of all numbers: plain, of magnitudes, and with weights of either sign by the place; where the others are, and which."""
    weights = ((base.hashed(3000, v.size) % np.uint64(128)).astype(np.float64) - 63.5) / 64
    if v.dtype.kind != "f":
        whole = v.astype(np.int64)
        return {"sum": int(whole.sum()), "mix": int((whole * (128 * weights).astype(np.int64)).sum()) / 128}
    kind = np.where(np.isnan(v), 1, np.where(v == np.inf, 2, np.where(v == -np.inf, 3, 0)))
    wide = np.where(kind == 0, v, 0).astype(np.float64)
    made = {"sum": short(wide.sum(), 10), "abs": short(np.abs(wide).sum(), 10), "mix": short((wide * weights).sum(), 10)}
    return made | {"odd": int((kind * np.arange(1, v.size + 1)).sum())} if kind.any() else made


def pack(y, large):
    a = flat(y)
    out = {"s": list(a.shape)}
    v = a.ravel()
    if v.size > (KEPT if large else 600):
        out["pick"] = v.size // KEPT | 1
        out.update(sums(v))
        v = v[:: out["pick"]]
    if a.dtype.kind in "iub":
        out["i"] = 1
        out["v"] = [int(x) for x in v]
    else:
        out["v"] = [short(x) for x in v]
    return out


def numbers(seed, shape):
    n = int(np.prod(shape, dtype=np.int64))
    return mx.array((((base.hashed(seed, n) % np.uint64(65)).astype(np.int64) - 32) / 32).astype(np.float32).reshape(shape))


def pulled(f, values, params, which):
    """Gradients by the operands `which` for the cotangents of the tests."""
    def g(*given):
        all_ = list(values)
        for k, v in zip(which, given):
            all_[k] = v
        return [y for y in f(*all_, *params) if mx.issubdtype(y.dtype, mx.floating)]
    outs = f(*values, *params)
    cots = [numbers(1000 + o, y.shape) for o, y in enumerate(outs) if mx.issubdtype(y.dtype, mx.floating)]
    return lambda given: mx.vjp(g, list(given), cots)[1]


def case(row, operands, params=(), grad="", second=False, large=False, types=None):
    values = [value_of(o) for o in operands]
    f = function_of(row, len(params))
    outs = f(*values, *params)
    specs = [{k: v for k, v in o.spec.items() if v != 0 or k == "s"} for o in operands]
    c = {"row": row, "in": specs, "out": [pack(y, large) for y in outs]}
    if params:
        c["p"] = [float(p) for p in params]
    if types or large:
        c["types"] = types or ["float32"]
    which = [k for k, g in enumerate(grad) if g == "1"]
    if which:
        made = pulled(f, values, params, which)([values[k] for k in which])
        lists = [None] * len(operands)
        for k, y in zip(which, made):
            lists[k] = [short(v) for v in flat(y).ravel()]
        c["grad"] = lists
    if second:
        back = pulled(TWICE.get(row, f), values, params, which)
        weights = [numbers(2000 + k, values[k].shape) for k in which]
        def total(*given):
            return sum((y * w).sum() for y, w in zip(back(given), weights))
        lists = [None] * len(operands)
        made = mx.grad(total, argnums=list(range(len(which))))(*[values[k] for k in which])
        for k, y in zip(which, made):
            lists[k] = [short(v) for v in flat(y).ravel()]
        c["second"] = lists
    cases.append(c)


def distinct(rows, n):
    """Rows of n numbers that all differ, in no order."""
    k = np.stack([np.random.default_rng(r).permutation(n) for r in range(rows)]) - n // 2
    return X((k / 16).tolist())


SPECIAL = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 20.0, -20.0, 88.0, -88.0, 100.0, 1.0, -1.0]
BIG = (1031, 1021)  # odd, and more than 2^20 together


def elementwise_cases():
    for n in "exp log tanh sigmoid relu relu2 silu gelu_tanh softplus mish".split():
        low = dict(add=65) if n == "log" else {}
        case(n, [F(3, 5, m=60, odd=True, **low)], grad="1", second=True)
        case(n, [F(*BIG, **low)], large=True)
        # log of what is below 0 is NaN here too; mish and gelu of an infinity are not what is compared.
        wide = n in ("exp", "tanh", "sigmoid", "relu", "relu2", "log")
        case(n, [X([v for v in SPECIAL if wide or abs(v) < 50 or v != v])], types=["float32"])
        case(n + "_grad", [F(2, 3, m=60, odd=True, **low), F(2, 3)], grad="11")
        case(n + "_grad", [F(*BIG, **low), F(*BIG)], large=True)
    case("elu", [F(3, 5, m=60, odd=True)], [0.75], grad="1", second=True)
    case("elu", [F(*BIG)], [1.0], large=True)
    case("elu_grad", [F(2, 3, m=60, odd=True), F(2, 3)], [0.75], grad="11")
    case("elu_grad", [F(*BIG, odd=True), F(*BIG)], [0.75], large=True)  # at 0 MLX takes the other side
    for n in ("add", "mul", "silu_mul", "swiglu2", "geglu2", "glm_fused_swiglu"):
        case(n, [F(3, 5), F(3, 5)], grad="11", second=n not in ("add", "mul"))
        case(n, [F(1), F(1)])
        case(n, [F(*BIG), F(*BIG)], large=True)
    case("silu_mul_residual", [F(3, 5), F(3, 5), F(3, 5)], grad="111", second=True)
    case("silu_mul_residual", [F(*BIG), F(*BIG), F(*BIG)], large=True)
    for n in ("swiglu", "geglu"):
        case(n, [F(3, 10)], grad="1", second=True)
        case(n, [F(1031, 1022)], large=True)
    for n in ("bias_swiglu", "bias_geglu"):
        case(n, [F(3, 6), F(6)], grad="11", second=True)
        case(n, [F(1031, 1022), F(1022)], large=True)
    for n in ("add_bias", "bias_gelu_tanh", "bias_silu"):
        case(n, [F(3, 5), F(5)], grad="11")
        case(n, [F(*BIG), F(1021)], large=True)
    case("depth_gate_sigmoid", [F(3, 5)], [8], grad="1", second=True)
    case("depth_gate_sigmoid", [F(*BIG)], [8], large=True)
    step = [0.01, 3, 0.9, 0.999, 1e-8, 0.01]
    case("adamw_step", [F(3, 5), F(3, 5), F(3, 5), F(3, 5, m=32, add=33)], step, grad="1111", types=["float32"])
    case("adamw_step", [F(*BIG), F(*BIG), F(*BIG), F(*BIG, m=32, add=33)], step, large=True)


def row_cases():
    for n in ("softmax_lastdim", "log_softmax_lastdim", "logsumexp_lastdim"):
        case(n, [F(3, 7)], grad="1", second=True)
        case(n, [F(4, 1)])
        case(n, [F(*BIG)], large=True)
    case("softmax_grad", [F(2, 5), F(2, 5)], grad="11")
    case("softmax_grad", [F(*BIG), F(*BIG)], large=True)
    for n, eps in (("rmsnorm", 1e-6), ("glm_rmsnorm", 1e-5)):
        case(n, [F(3, 7), F(7)], [eps], grad="11", second=True)
        case(n, [F(*BIG), F(1021)], [eps], large=True)
    case("rmsnorm_grad", [F(2, 5), F(5), F(2, 5)], [1e-6], grad="111")
    case("rmsnorm_grad", [F(*BIG), F(1021), F(*BIG)], [1e-6], large=True)
    case("rms_norm_no_weight", [F(3, 6)], [1e-6], grad="1", second=True)
    case("rms_norm_no_weight", [F(*BIG)], [1e-6], large=True)
    case("layernorm", [F(3, 7), F(7), F(7)], [1e-5], grad="111", second=True)
    case("layernorm", [F(*BIG), F(1021), F(1021)], [1e-5], large=True)
    case("layer_norm_no_weight", [F(3, 6)], [1e-5], grad="1", second=True)
    case("layer_norm_no_weight", [F(*BIG)], [1e-5], large=True)
    case("layer_norm_dropout", [F(4, 9), F(9), F(9)], [0.25, 7, 1e-5], grad="111")
    case("rms_norm_dropout", [F(4, 9), F(9)], [0.25, 7, 1e-6], grad="11")
    case("dropout", [F(4, 9)], [0.25, 7], grad="1")
    case("layer_norm_dropout", [F(*BIG), F(1021), F(1021)], [0.25, 7, 1e-5], large=True)
    case("rms_norm_dropout", [F(*BIG), F(1021)], [0.25, 7, 1e-6], large=True)
    case("dropout", [F(*BIG)], [0.25, 7], large=True)
    case("residual_rmsnorm", [F(3, 7), F(3, 7), F(7)], [1e-6], grad="111", second=True)
    case("residual_rmsnorm", [F(*BIG), F(*BIG), F(1021)], [1e-6], large=True)
    for n in ("add_rms_norm", "rmsnorm_residual", "fused_add_rmsnorm"):
        case(n, [F(3, 7), F(3, 7), F(7)], [1e-6], grad="111", second=n == "add_rms_norm")
        case(n, [F(*BIG), F(*BIG), F(1021)], [1e-6], large=True)
    for n in ("layernorm_residual", "fused_add_layernorm"):
        case(n, [F(3, 7), F(3, 7), F(7), F(7)], [1e-5], grad="1111", second=n == "layernorm_residual")
        case(n, [F(*BIG), F(*BIG), F(1021), F(1021)], [1e-5], large=True)
    for n, p in (("masked_softmax", []), ("scale_mask_softmax", [0.5])):
        case(n, [F(3, 7), N([[1, 0, 1, 1, 0, 1, 1]] * 3, t="bool")], p, grad="10", second=True)
        case(n, [F(*BIG), I(*BIG, t="bool")], p, large=True)
    case("softmax_cross_entropy", [F(4, 7), N([0, 6, 3, 3])], [-1], grad="10", second=True)
    case("softmax_cross_entropy", [F(257, 4099), I(257, below=4099)], [-1], large=True)
    case("softmax_cross_entropy_grad", [F(3, 5), N([0, 4, 2]), F(3, t="float32")], [-1], grad="101", second=True)
    case("softmax_cross_entropy_grad", [F(257, 4099), I(257, below=4099), F(257, t="float32")], [-1], large=True)
    case("grpo_advantage_norm", [F(3, 6)], [1e-6], grad="1", second=True)
    case("grpo_advantage_norm", [F(16385, 65)], [1e-6], large=True)
    case("fused_recurrent_step", [F(3, 5), F(5), F(3, 5), F(1)], [1e-6], grad="1111")
    case("fused_recurrent_step", [F(*BIG), F(1021), F(*BIG), F(1)], [1e-6], large=True)
    for n in "sum_lastdim mean_lastdim max_lastdim var_lastdim std_lastdim".split():
        p = {"mean_lastdim": [0], "std_lastdim": [1e-6]}.get(n, [])
        case(n, [distinct(3, 7)], p, grad="1", second=n in ("var_lastdim", "std_lastdim"))
        case(n, [F(4, 1)], p)
        case(n, [F(257, 4099)], p, large=True)
    case("argmax_lastdim", [F(6, 31, m=4)])
    case("argmax_lastdim", [F(257, 4099)], large=True)
    case("topk_lastdim", [distinct(3, 9)], [3], grad="1")
    case("topk_lastdim", [distinct(1, 77)], [40])
    for n in ("cumsum_lastdim", "cumsum_grad"):
        case(n, [F(3, 7)], grad="1")
        case(n, [F(4111, 257)], large=True)


def attention_cases():
    n = "scaled_dot_product_attention"
    case(n, [F(2, 4, 3, 5), F(2, 2, 4, 5), F(2, 2, 4, 2), F(4, 3, 4), F(4)], [0, 0], grad="11111")
    case(n, [F(1, 2, 4, 3), F(1, 1, 4, 3), F(1, 1, 4, 3)], [0.5, 1], grad="111")
    case(n, [F(2, 6, 33, 16), F(2, 3, 65, 16), F(2, 3, 65, 8), I(2, 1, 33, 65, t="bool")], [0, 0])
    case(n, [F(1, 4, 301, 64), F(1, 2, 7001, 64), F(1, 2, 7001, 64)], [0, 1], large=True)
    case("attention_tile_proto", [F(16, 5), F(16, 5)], grad="11")
    case("attention_tile_proto", [F(16, 1023, d=64), F(16, 1023, d=64)], large=True)
    case("paged_attention", [F(2, 4, 4), F(4, 2, 2, 4), F(4, 2, 2, 4), N([[2, 0, 1], [1, 3, 0]]), N([3, 6])], [0], grad="11100")
    case("paged_attention", [F(3, 6, 8), F(4100, 16, 2, 8), F(4100, 16, 2, 8), I(3, 300, below=4100), N([4500, 1, 129])], [0], large=True)
    for n in ("apply_rope", "apply_rope_interleaved"):
        case(n, [F(2, 3, 6), F(3, 3), F(3, 3)], grad="111", second=True)
        case(n, [F(33, 511, 64), F(511, 32), F(511, 32)], large=True)
    case("apply_gqa_rope", [F(1, 3, 4, 6), F(3, 3), F(3, 3)], [2], grad="111")
    case("apply_gqa_rope", [F(3, 511, 12, 64), F(511, 32), F(511, 32)], [4], large=True)
    decode = [F(2, 4, 6), F(2, 2, 6), F(2, 2, 6), F(8, 3), F(8, 3)]
    case("rope_and_cache_update", decode + [F(2, 5, 2, 6), F(2, 5, 2, 6), N([3, 0])], grad="11111110")
    case("paged_rope_and_cache_update", decode + [F(5, 3, 2, 6), F(5, 3, 2, 6), N([4, 2]), N([[1, 4], [0, 2]])], grad="1111111" + "00")
    mla = [F(2, 3, 1, 5), F(2, 3, 1, 4), F(2, 1, 1, 5), F(2, 1, 1, 4)]
    case("rope_concat_qk_decode", mla + [F(6, 2), F(6, 2)], [3], grad="111111")
    case("rope_concat_qk_decode", mla + [F(6, 2), F(6, 2)], [-5])
    case("rope_concat_qk_decode_pos", mla + [F(2), F(2)], grad="111111")
    for n in ("fused_linear_bias_silu", "fused_linear_bias_gelu"):
        case(n, [F(3, 5, d=64), F(4, 5, d=64), F(4)], grad="111", second=True)
        case(n, [F(67, 1025, d=64), F(1023, 1025, d=1024), F(1023)], large=True)
    case("fused_linear_rmsnorm", [F(3, 5, d=64), F(4, 5, d=64), F(4)], [1e-6], grad="111")
    case("fused_linear_rmsnorm", [F(67, 1025, d=64), F(1023, 1025, d=1024), F(1023)], [1e-6], large=True)


def quant_cases():
    for n in ("dequantize_int8", "dequantize_silu_int8"):
        case(n, [I(3, 5, below=256, add=-128, t="int8"), F(1, d=1024)], grad="01")
        case(n, [I(*BIG, below=256, add=-128, t="int8"), F(1, d=1024)], large=True)
    for n in ("dequantize_int4", "dequantize_nf4"):
        case(n, [N([[0x10, 0x78, 0xF8, 0x9A]], t="uint8"), X([0.5])], grad="01")
        case(n, [I(*BIG, below=256, t="uint8"), X([0.5])], large=True)
    case("dequantize_blockwise", [I(3, 5, below=256, add=-128, t="int8"), F(4)], [4, 8], grad="01")
    case("dequantize_blockwise", [I(1031, 1024, below=256, add=-128, t="int8"), F(1031 * 8)], [128, 8], large=True)
    case("dequantize_fp8", [N([c for c in range(256) if c & 127 != 127], t="uint8"), X([0.5])], [0], grad="01", types=["float32"])
    case("dequantize_fp8", [I(1031, 1021, below=127, t="uint8"), X([0.5])], [0], large=True)
    for n in ("dequantize_affine_packed", "dequantize_affine_packed_silu", "dequantize_affine_packed_gelu"):
        case(n, affine(2, 32, 4, 32), [4, 32], grad="011")
        case(n, affine(3, 64, 2, 64), [2, 64])
        case(n, affine(1031, 1024, 8, 64), [8, 64], large=True)
    case("dequantize_affine_packed_hi2", affine(2, 64, 4, 32), [32], grad="011")
    case("dequantize_affine_packed_hi2", affine(1031, 1024, 4, 32), [32], large=True)
    case("dequantize_affine_packed_lo2_delta", affine(2, 64, 4, 32)[:2], [32], grad="01")
    case("dequantize_affine_packed_lo2_delta", affine(1031, 1024, 4, 32)[:2], [32], large=True)
    case("fused_swiglu_quant", [I(3, 5, below=256, add=-128, t="int8"), F(4, d=1024),
         I(3, 5, below=256, add=-128, t="int8"), F(4, d=1024)], [4], grad="0101")
    case("fused_swiglu_quant", [I(1031, 1024, below=256, add=-128, t="int8"), F(1031 * 8, d=1024),
         I(1031, 1024, below=256, add=-128, t="int8"), F(1031 * 8, d=1024)], [128], large=True)
    for n, more in (("fused_quantized_swiglu_gemv", []), ("fused_quantized_swiglu_gemv_progressive", [0, 0])):
        case(n, [F(2, 64, d=64)] + affine(5, 64, 4, 32) + affine(5, 64, 4, 32), [4, 32] + more, grad="1011011")
        case(n, [F(3, 1024, d=64)] + affine(1031, 1024, 4, 64) + affine(1031, 1024, 4, 64), [4, 64] + more, large=True)
    case("pack_bits", [I(6, 8, t="bool")])
    case("pack_bits", [I(1031 * 1024, t="bool")], large=True)
    case("unpack_bits", [I(15, below=256, t="uint8")])
    case("unpack_bits", [I(131073, below=256, t="uint8")], large=True)


def other_cases():
    for h, w in ((4, 7), (2, 2), (1, 1)):
        case("resize_bilinear", [F(2, 3, 3, 2)], [h, w], grad="1")
    case("resize_bilinear", [F(3, 129, 127, 23)], [61, 200], large=True)
    case("depthwise_conv_3x3", [F(1, 3, 4, 2), F(3, 3, 2)], grad="11")
    case("depthwise_conv_3x3", [F(2, 129, 127, 33), F(3, 3, 33)], large=True)
    case("fused_gather_add", [F(4, 3), N([3, 0, 0]), F(3, 3)], grad="101")
    case("fused_gather_add", [F(501, 1021), I(1031, below=501), F(1031, 1021)], large=True)
    case("fused_scatter_add", [N([1, 0, 1, 2]), F(4, 3)], [3], grad="01")
    case("fused_scatter_add", [I(1031, below=501), F(1031, 1021)], [501], large=True)
    case("skv_fused_project_quantize", [F(3, 2, 4, d=64), F(2, 4, 4, d=64)], [4, 8], types=["float32"])
    words = [I(3, t="uint32"), F(3, t="float32"), F(3, t="float32")]
    case("skv_fused_dequantize_unproject", words + [F(2, 4, 3)], [4, 8, 3, 2, 3], grad="0111")
    case("skv_compressed_attention", words + [F(2, 2, 3)], [4, 8, 3, 2, 3, 0.5], grad="0111")
    for last in (0, 1):
        f = 4
        case("ttt_linear_decode",
             [F(2, f), F(2, f), F(2, f), F(2, m=8, add=9), F(1, m=8, add=9), N([last]), F(2, f, f), F(2, f), F(2, f, f), F(2, f), F(2, f),
              F(2, f)], grad="111110111111", types=["float32"])
    case("ttt_linear_decode",
         [F(3, 64), F(3, 64), F(3, 64), F(3, m=8, add=9), F(1, m=8, add=9), N([1]), F(3, 64, 64, d=128), F(3, 64), F(3, 64, 64), F(3, 64),
          F(3, 64), F(3, 64)], large=True)
    case("top2_gating_softmax", [distinct(2, 5)], grad="1")
    case("top2_gating_softmax", [distinct(3, 64)])
    for n in ("router_argpartition_logits_topk", "glm_topk_gating"):
        case(n, [distinct(2, 5)], [3], grad="1")
        case(n, [distinct(3, 64)], [4])
    for norm in (0, 1):
        case("topk_gating_softmax", [distinct(2, 5)], [3, norm], grad="1")
        case("topk_gating_softmax", [distinct(2, 5), F(5)], [3, norm], grad="11")
    case("deepseek_router_topk_sigmoid", [distinct(2, 5), F(5, d=256)], [2, 1, 1], grad="10")
    case("moe_dispatch", [F(4, 3), N([[1, 0], [2, 1], [0, 2], [1, 1]])], [3], grad="10")
    case("moe_dispatch", [F(1031, 257), I(1031, 4, below=8)], [8], large=True)
    for n in ("moe_combine", "moe_combine_no_fma", "moe_combine_exact", "moe_combine_fp32", "moe_combine_fp32_no_fma", "glm_moe_combine"):
        case(n, [F(2, 3, 4), F(2, 3)], grad="11")
        case(n, [F(131, 8, 1021), F(131, 8)], large=True)
    for n in ("gather_mmk_combine", "gather_qmm_combine"):
        case(n, [F(2, 2, 5, d=64), F(3, 5, 4, d=64), F(2, 2), N([[0, 2], [1, 1]])], [0], grad="1110")
        case(n, [F(3, 2, 257, d=64), F(4, 257, 1021, d=64), F(3, 2), I(3, 2, below=4)], [0], large=True)
    for n in ("gather_qmmk_combine_quantized", "gather_qmm_combine_quantized"):
        case(n, [F(2, 2, 32, d=64)] + affine(3, 32, 4, 32, experts=3) + [F(2, 2), N([[0, 2], [1, 1]])], [0, 4, 32], grad="101110")
        OWN[n] = by_mlx_kernels
        case(n, [F(3, 2, 512, d=64)] + affine(259, 512, 4, 64, experts=8) + [F(3, 2), I(3, 2, below=8)], [0, 4, 64], large=True)
    case("gather_qmm_swiglu", [F(2, 1, 32, d=64)] + affine(3, 32, 4, 32, 3) + affine(3, 32, 4, 32, 3) + [N([0, 1, 1]), N([2, 0, 1])],
         [4, 32], grad="101101100")
    OWN["gather_qmm_swiglu"] = lambda *a: (peers._gated(mx, a[0], a, a[8], {"bits": a[9], "group_size": a[10]}, a[7]),)
    case("gather_qmm_swiglu", [F(3, 2, 512, d=64)] + affine(259, 512, 4, 64, 5) + affine(259, 512, 4, 64, 5) + [N([0, 2, 1]), N([4, 0, 1])],
         [4, 64], large=True)
    case("fused_swiglu_gather_qmv", [F(2, 32, d=64)] + affine(3, 32, 4, 32, 3) + affine(3, 32, 4, 32, 3) + [N([[2, 0], [1, 1]])], [4, 32],
         grad="10110110")
    OWN["fused_swiglu_gather_qmv"] = lambda *a: (
        peers._gated(mx, a[0][:, None, None], a, a[7], {"bits": a[8], "group_size": a[9]})[..., 0, :],)
    case("fused_swiglu_gather_qmv", [F(3, 512, d=64)] + affine(259, 512, 4, 64, 5) + affine(259, 512, 4, 64, 5)
         + [N([[4, 0], [1, 2], [3, 3]])], [4, 64], large=True)


def main():
    mx.set_default_device(mx.cpu)
    base._seed[0] = 20000
    elementwise_cases()
    row_cases()
    attention_cases()
    quant_cases()
    other_cases()
    case("ttt_linear", base.layer(2, 5, 2, 3, 3), [2, 1, 0], grad="1" * 11, types=["float32"])
    case("ttt_linear", base.layer(2, 40, 4, 16, 16), [4, 1, 0], types=["float32"])
    text = "[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n"
    (HERE.parent / "tests" / "data" / "catalog_mlx.json").write_text(text)
    print(f"{len(cases)} cases, {len(text) // 1024} KB")


if __name__ == "__main__":
    main()
