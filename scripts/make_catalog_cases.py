#!/usr/bin/env python3
"""Writes tests/data/catalog_<group>.json: operands and results of the rows of the catalog, computed by NumPy in float64.

Needs numpy. Operands are generated from a seed by the same rule in tests/test_catalog.c, so only results are stored. Floats are multiples
of a power of two below 2^7 of them: exact in every float dtype, so one result serves all. Gradients are central differences in float64 of
the sum of results times cotangents. Every row of the catalog must have cases here: the test fails for one that has none.
"""
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import catalog_reference as ref  # noqa: E402

PICK = 257  # of a long result every PICK-th element is stored
groups = {}


def hashed(seed, n):
    """n numbers of 32 bits; as generate() in tests/test_catalog.c."""
    h = (np.arange(n, dtype=np.uint64) * 2654435761 + seed * 40503 + 12345) & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    h = (h * 3266489917) & 0xFFFFFFFF
    return h ^ (h >> np.uint64(16))


class Operand:
    def __init__(self, spec, value):
        self.spec, self.value = spec, value


_seed = [0]


def F(*shape, m=64, d=32, add=0, t="T", odd=False):
    """Floats (k + add) / d with |k| <= m; odd: (2 k + 1) / 2d, which is never 0."""
    _seed[0] += 1
    n = int(np.prod(shape, dtype=np.int64))
    k = (hashed(_seed[0], n) % np.uint64(2 * m + 1)).astype(np.int64) - m + add
    spec = {"t": t, "s": list(shape), "seed": _seed[0], "m": m, "d": d, "add": add}
    if odd:
        spec["odd"] = 1
        k = k + 0.5
    return Operand(spec, (k / d).reshape(shape))


def X(values, t="T"):
    """Given floats; nan and inf may be among them."""
    a = np.array(values, dtype=np.float64)
    flat = [v if np.isfinite(v) else str(v) for v in a.ravel().tolist()]
    return Operand({"t": t, "s": list(a.shape), "x": flat}, a)


def I(*shape, below=0, add=0, t="int32"):
    """Integers add + h % below; below 0: all 32 bits."""
    _seed[0] += 1
    n = int(np.prod(shape, dtype=np.int64))
    h = hashed(_seed[0], n).astype(np.int64)
    v = h % below + add if below else h
    if t == "bool":
        v = h >> 31
    return Operand({"t": t, "s": list(shape), "seed": _seed[0], "below": below, "add": add}, v.reshape(shape))


def N(values, t="int32"):
    a = np.array(values, dtype=np.int64)
    return Operand({"t": t, "s": list(a.shape), "x": a.ravel().tolist()}, a)


def number(v):
    v = float(v)
    if np.isnan(v) or np.isinf(v):
        return str(v)
    return float(f"{v:.9g}")


def pack(a):
    a = np.asarray(a)
    out = {"s": list(a.shape)}
    flat = a.ravel()
    if flat.size > 600:
        out["pick"] = PICK
        flat = flat[::PICK]
    if a.dtype.kind in "iub":
        out["i"] = 1
        out["v"] = [int(v) for v in flat]
    else:
        out["v"] = [number(v) for v in flat]
    return out


def cotangents(outs):
    made = []
    for o, y in enumerate(outs):
        if y.dtype.kind in "iub":
            made.append(None)
            continue
        k = (hashed(1000 + o, y.size) % np.uint64(65)).astype(np.int64) - 32
        made.append((k / 32).reshape(y.shape))
    return made


def gradients(f, operands, params, names):
    outs = [np.asarray(y) for y in f(*[o.value for o in operands], *params)]
    cots = cotangents(outs)

    def total(values):
        ys = f(*values, *params)
        return sum(float((np.asarray(y) * c).sum()) for y, c in zip(ys, cots) if c is not None)

    result = []
    for i, o in enumerate(operands):
        if o.value.dtype.kind in "iub" or not names[i]:
            result.append(None)
            continue
        g = np.zeros(o.value.size)
        for j in range(o.value.size):
            values = [p.value.astype(np.float64) if p.value.dtype.kind == "f" else p.value for p in operands]
            at = []
            for e in (1e-5, -1e-5):
                v = o.value.astype(np.float64).copy()
                v.ravel()[j] += e
                values[i] = v
                at.append(total(values))
            g[j] = (at[0] - at[1]) / 2e-5
        result.append([float(f"{v:.6g}") for v in g])
    return result


def case(group, row, operands, params=(), grad=None, types=None, name=None, f=None):
    """grad: a string with a 1 for each operand whose gradient is stored, 0 for others."""
    f = f or getattr(ref, name or row)
    with np.errstate(all="ignore"):
        outs = [np.asarray(y) for y in f(*[o.value for o in operands], *params)]
    c = {"row": row, "in": [o.spec for o in operands], "out": [pack(y) for y in outs]}
    if params:
        c["p"] = [float(p) for p in params]
    if types:
        c["types"] = types
    if grad:
        with np.errstate(all="ignore"):
            c["grad"] = gradients(f, operands, params, [g == "1" for g in grad])
    groups.setdefault(group, []).append(c)


def activation_cases():
    names = "exp log tanh sigmoid relu relu2 silu gelu_tanh softplus mish".split()
    for n in names:
        low = dict(add=64) if n == "log" else {}
        case("activations", n, [F(3, 5, m=60, odd=True, **low)], grad="1", f=lambda x, n=n: (getattr(ref, n)(x),))
        case("activations", n, [F(0, 4, **low)], f=lambda x, n=n: (getattr(ref, n)(x),))
        case("activations", n, [F(1, add=65)], f=lambda x, n=n: (getattr(ref, n)(x),))
        case("activations", n, [F(33, 301, **low)], f=lambda x, n=n: (getattr(ref, n)(x),))
        special = [np.nan, np.inf, 0.0, 100.0, 1.0] if n in ("log",) else [np.nan, 0.0, 20.0, -20.0, 88.0, -88.0]
        limit = ["float32"] if n in ("exp", "relu2") else None
        case("activations", n, [X(special)], types=limit, f=lambda x, n=n: (getattr(ref, n)(x),))
        g = n + "_grad"
        case("activations", g, [F(2, 3, m=60, odd=True, **low), F(2, 3)], grad="11")
        case("activations", g, [F(0, 3, **low), F(0, 3)])
        case("activations", g, [F(21, 101, **low), F(21, 101)])
    # Large inputs do not overflow softplus, and with it mish.
    case("activations", "softplus", [X([1000.0, 90.0, -1000.0, np.inf, -np.inf])], f=lambda x: (ref.softplus(x),))
    case("activations", "mish", [X([1000.0, 90.0, -1000.0])], f=lambda x: (ref.mish(x),))
    case("activations", "elu", [F(3, 5, m=60, odd=True)], [0.75], grad="1")
    case("activations", "elu", [F(7, 311)], [1.0])
    case("activations", "elu_grad", [F(2, 3, m=60, odd=True), F(2, 3)], [0.75], grad="11")
    case("activations", "elu_grad", [F(7, 31), F(7, 31)], [1.0])


def row_cases():
    for n in ("softmax_lastdim", "log_softmax_lastdim"):
        case("rows", n, [F(3, 7)], grad="1")
        case("rows", n, [F(0, 5)])
        case("rows", n, [F(4, 1)])
        case("rows", n, [F(2, 3, 17)])
        case("rows", n, [F(5, 1031)])
        case("rows", n, [X([[1024.0, 1016.0, -1024.0], [-np.inf, 0.0, 1.0], [np.nan, 0.0, 1.0]])])
    case("rows", "softmax_grad", [F(2, 5), F(2, 5)], grad="11")
    case("rows", "softmax_grad", [F(9, 131), F(9, 131)])
    for n, eps in (("rmsnorm", 1e-6), ("glm_rmsnorm", 1e-5)):
        case("rows", n, [F(3, 7), F(7)], [eps], grad="11")
        case("rows", n, [F(0, 7), F(7)], [eps])
        case("rows", n, [F(2, 1), F(1)], [eps])
        case("rows", n, [F(2, 3, 33), F(33)], [eps])
        case("rows", n, [F(7, 1025), F(1025)], [eps])
        case("rows", n, [X([[0.0, 0.0, 0.0]]), X([1.0, 2.0, 3.0])], [eps])
    case("rows", "rmsnorm_grad", [F(2, 5), F(5), F(2, 5)], [1e-6], grad="111")
    case("rows", "rmsnorm_grad", [F(11, 257), F(257), F(11, 257)], [1e-6])
    case("rows", "rms_norm_no_weight", [F(3, 6)], [1e-6], grad="1")
    case("rows", "rms_norm_no_weight", [F(5, 400)], [1e-6])
    case("rows", "layernorm", [F(3, 7), F(7), F(7)], [1e-5], grad="111")
    case("rows", "layernorm", [F(0, 7), F(7), F(7)], [1e-5])
    case("rows", "layernorm", [F(9, 1001), F(1001), F(1001)], [1e-5])
    # A mean of 4096 with a deviation of 1: the mean of squares less the square of the mean would have lost it.
    case("rows", "layernorm", [X([[4096.0, 4097.0, 4095.0, 4096.0, 4097.0, 4095.0]]), F(6), F(6)], [1e-5], types=["float32"])
    case("rows", "layer_norm_no_weight", [F(3, 6)], [1e-5], grad="1")
    case("rows", "layer_norm_no_weight", [X([[8192.0, 8193.0, 8191.0, 8192.0]])], [1e-5], types=["float32"])
    case("rows", "layer_norm_dropout", [F(4, 9), F(9), F(9)], [0.25, 7, 1e-5], grad="111")
    case("rows", "layer_norm_dropout", [F(3, 201), F(201), F(201)], [0.5, 4294967295, 1e-5])
    case("rows", "rms_norm_dropout", [F(4, 9), F(9)], [0.25, 7, 1e-6], grad="11")
    case("rows", "rms_norm_dropout", [F(3, 201), F(201)], [0.0, 1, 1e-6])
    case("rows", "dropout", [F(4, 9)], [0.25, 7], grad="1")
    case("rows", "dropout", [F(2, 3, 171)], [0.9, 12345])
    case("rows", "dropout", [F(0, 3)], [0.5, 1])
    case("rows", "residual_rmsnorm", [F(3, 7), F(3, 7), F(7)], [1e-6], grad="111")
    case("rows", "residual_rmsnorm", [F(7, 515), F(7, 515), F(515)], [1e-6])
    for n in ("add_rms_norm", "rmsnorm_residual", "fused_add_rmsnorm"):
        case("rows", n, [F(3, 7), F(3, 7), F(7)], [1e-6], grad="111", name="add_rms_norm")
        case("rows", n, [F(0, 7), F(0, 7), F(7)], [1e-6], name="add_rms_norm")
        case("rows", n, [F(5, 515), F(5, 515), F(515)], [1e-6], name="add_rms_norm")
    for n in ("layernorm_residual", "fused_add_layernorm"):
        case("rows", n, [F(3, 7), F(3, 7), F(7), F(7)], [1e-5], grad="1111", name="layernorm_residual")
        case("rows", n, [F(5, 515), F(5, 515), F(515), F(515)], [1e-5], name="layernorm_residual")


def transformer_cases():
    for n in ("swiglu", "geglu"):
        case("transformer", n, [F(3, 10)], grad="1")
        case("transformer", n, [F(0, 10)])
        case("transformer", n, [F(2, 3, 2)])
        case("transformer", n, [F(5, 1202)])
    for n in ("swiglu2", "geglu2", "glm_fused_swiglu"):
        case("transformer", n, [F(3, 5), F(3, 5)], grad="11")
        case("transformer", n, [F(2, 401), F(2, 401)])
    for n in ("bias_swiglu", "bias_geglu"):
        case("transformer", n, [F(3, 6), F(6)], grad="11")
        case("transformer", n, [F(4, 402), F(402)])
    for n in ("add", "mul", "silu_mul"):
        case("transformer", n, [F(3, 5), F(3, 5)], grad="11")
        case("transformer", n, [F(0), F(0)])
        case("transformer", n, [F(33, 45), F(33, 45)])
    for n in ("add_bias", "bias_gelu_tanh", "bias_silu"):
        case("transformer", n, [F(3, 5), F(5)], grad="11")
        case("transformer", n, [F(2, 2, 301), F(301)])
    for n in ("fused_linear_bias_silu", "fused_linear_bias_gelu"):
        case("transformer", n, [F(3, 5, d=64), F(4, 5, d=64), F(4)], grad="111")
        case("transformer", n, [F(7, 65, d=64), F(19, 65, d=128), F(19)])
    case("transformer", "fused_linear_rmsnorm", [F(3, 5, d=64), F(4, 5, d=64), F(4)], [1e-6], grad="111")
    case("transformer", "fused_linear_rmsnorm", [F(7, 65, d=64), F(19, 65, d=128), F(19)], [1e-6])
    case("transformer", "fused_recurrent_step", [F(3, 5), F(5), F(3, 5), F(1)], [1e-6], grad="1111")
    case("transformer", "fused_recurrent_step", [F(4, 205), F(205), F(4, 205), F(1)], [1e-6])
    case("transformer", "depth_gate_sigmoid", [F(3, 5)], [8], grad="1")
    case("transformer", "grpo_advantage_norm", [F(3, 6)], [1e-6], grad="1")
    case("transformer", "grpo_advantage_norm", [F(31, 64)], [1e-6])
    case("transformer", "silu_mul_residual", [F(3, 5), F(3, 5), F(3, 5)], grad="111")
    case("transformer", "silu_mul_residual", [F(30, 51), F(30, 51), F(30, 51)])
    case("transformer", "adamw_step", [F(3, 5), F(3, 5), F(3, 5), F(3, 5, m=32, add=33)], [0.01, 3, 0.9, 0.999, 1e-8, 0.01],
         grad="1111",
         types=["float32"])
    case("transformer", "adamw_step", [F(30, 51), F(30, 51), F(30, 51), F(30, 51, m=32, add=33)],
         [0.01, 1, 0.9, 0.999, 1e-8, 0.0])


def reduction_cases():
    for n in "sum_lastdim mean_lastdim max_lastdim var_lastdim std_lastdim".split():
        p = {"mean_lastdim": [0], "std_lastdim": [1e-6]}.get(n, [])
        case("reductions", n, [F(3, 7)], p, grad="1" if n != "max_lastdim" else None)
        case("reductions", n, [F(0, 7)], p)
        case("reductions", n, [F(4, 1)], p)
        case("reductions", n, [F(2, 3, 1029)], p)
        case("reductions", n, [F(5)], p)
    case("reductions", "mean_lastdim", [F(3, 7)], [1], grad="1")
    case("reductions", "mean_lastdim", [F(2, 1029)], [1])
    case("reductions", "max_lastdim", [X([[1.0, 3.0, 2.0], [-5.0, -7.0, -6.0]])], grad="1")
    case("reductions", "max_lastdim", [X([[1.0, np.nan, 2.0], [-np.inf, -np.inf, -np.inf], [-0.0, 0.0, -1.0]])])
    case("reductions", "argmax_lastdim", [F(6, 31, m=4)])
    case("reductions", "argmax_lastdim", [X([[2.0, 5.0, 5.0, 5.0], [1.0, np.nan, np.nan, 9.0], [0.0, 0.0, 0.0, 0.0]])])
    case("reductions", "argmax_lastdim", [F(2, 3000, m=100)])
    case("reductions", "topk_lastdim", [X([[1.0, 4.0, 2.0, 3.0, -1.0], [5.0, 1.0, 2.0, 0.5, 9.0]])], [3], grad="1")
    case("reductions", "topk_lastdim", [F(7, 33, m=5)], [4])
    case("reductions", "topk_lastdim", [F(3, 77, m=5)], [40])
    case("reductions", "topk_lastdim", [F(1, 1)], [1])
    case("reductions", "topk_lastdim", [F(0, 5)], [2])
    case("reductions", "topk_lastdim", [X([[np.nan, 1.0, 1.0, -np.inf, np.inf, -0.0, 0.0]])], [7])
    case("reductions", "cumsum_lastdim", [F(3, 7)], grad="1")
    case("reductions", "cumsum_lastdim", [F(4, 515)])
    case("reductions", "cumsum_lastdim", [F(0, 3)])
    case("reductions", "cumsum_grad", [F(3, 7)], grad="1")
    case("reductions", "cumsum_grad", [F(4, 515)])
    case("reductions", "logsumexp_lastdim", [F(3, 7)], grad="1")
    case("reductions", "logsumexp_lastdim", [F(5, 1031)])
    case("reductions", "logsumexp_lastdim", [X([[1000.0, 999.0], [-np.inf, -np.inf], [np.inf, 0.0], [np.nan, 0.0]])])
    for n, p in (("masked_softmax", []), ("scale_mask_softmax", [0.5])):
        case("reductions", n, [F(3, 7), I(3, 7, t="bool")], p, grad="10")
        case("reductions", n, [F(4, 301), I(4, 301, t="bool")], p)
        case("reductions", n, [F(2, 3), N([[0, 0, 0], [1, 0, 0]], t="bool")], p)
        case("reductions", n, [X([[np.nan, 1.0, 2.0]]), N([[0, 1, 1]], t="bool")], p)
        case("reductions", n, [F(2, 3, 5), I(5, t="bool")], p)
    case("reductions", "softmax_cross_entropy", [F(4, 7), N([0, 6, 3, 3])], [-1], grad="10")
    case("reductions", "softmax_cross_entropy", [F(4, 7), N([0, 6, -1, 7])], [-1], types=["float32"])
    case("reductions", "softmax_cross_entropy", [F(9, 1003), I(9, below=1003)], [-100])
    case("reductions", "softmax_cross_entropy_grad", [F(3, 5), N([0, 4, 2]), F(3, t="float32")], [-1], grad="101")
    case("reductions", "softmax_cross_entropy_grad", [F(3, 5), N([0, -1, 2]), F(3, t="float32")], [-1])


def attention_cases():
    case("attention", "attention_tile_proto", [F(16, 5), F(16, 5)], grad="11")
    case("attention", "attention_tile_proto", [F(16, 67, d=64), F(16, 67, d=64)])
    table = N([[2, 0, 9], [1, 3, 0]])
    case("attention", "paged_attention", [F(2, 4, 4), F(4, 2, 2, 4), F(4, 2, 2, 4), table, N([3, 6])], [0], grad="11100")
    # More positions than the table has blocks, none at all, blocks out of range.
    case("attention", "paged_attention", [F(3, 2, 5), F(4, 2, 1, 5), F(4, 2, 1, 5), N([[2, 0], [1, 3], [-1, 4]]),
         N([5000, 0, 4])], [0.5])
    case("attention", "paged_attention", [F(1, 6, 8), F(80, 16, 2, 8), F(80, 16, 2, 8), I(1, 300, below=80), N([4500])], [0])
    case("attention", "paged_attention", [F(0, 2, 4), F(3, 2, 1, 4), F(3, 2, 1, 4), I(0, 2, below=3), I(0, below=4)], [0])
    for n in ("apply_rope", "apply_rope_interleaved"):
        case("attention", n, [F(2, 3, 6), F(3, 3), F(3, 3)], grad="111")
        case("attention", n, [F(0, 3, 6), F(3, 3), F(3, 3)])
        case("attention", n, [F(2, 2, 5, 64), F(5, 32), F(5, 32)])
        case("attention", n, [F(7, 2), F(7, 1), F(7, 1)])
    case("attention", "apply_gqa_rope", [F(1, 3, 4, 6), F(3, 3), F(3, 3)], [2], grad="111")
    decode = [F(2, 4, 6), F(2, 2, 6), F(2, 2, 6), F(8, 3), F(8, 3)]
    case("attention", "rope_and_cache_update", decode + [F(2, 5, 2, 6), F(2, 5, 2, 6), N([3, 0])], grad="11111110")
    case("attention", "rope_and_cache_update", decode + [F(2, 5, 2, 6), F(2, 5, 2, 6), N([4, 7])])
    paged = [F(5, 3, 2, 6), F(5, 3, 2, 6), N([4, 2]), N([[1, 4], [0, 2]])]
    case("attention", "paged_rope_and_cache_update", decode + paged, grad="1111111" + "00")
    case("attention", "paged_rope_and_cache_update", decode + [F(5, 3, 2, 6), F(5, 3, 2, 6), N([6, 1]), N([[1, 4], [9, 2]])])
    mla = [F(2, 3, 1, 5), F(2, 3, 1, 4), F(2, 1, 1, 5), F(2, 1, 1, 4)]
    case("attention", "rope_concat_qk_decode", mla + [F(6, 2), F(6, 2)], [3], grad="111111")
    case("attention", "rope_concat_qk_decode", mla + [F(6, 2), F(6, 2)], [-5])
    case("attention", "rope_concat_qk_decode_pos", mla + [F(2), F(2)], grad="111111")


def affine(n, k, bits, group, experts=None):
    lead = (experts,) if experts else ()
    return [I(*lead, n, k * bits // 32, t="uint32"), F(*lead, n, k // group, d=2048 if bits < 8 else 16384),
         F(*lead, n, k // group, d=64)]


def quant_cases():
    for n in ("dequantize_int8", "dequantize_silu_int8"):
        case("quant", n, [I(3, 5, below=256, add=-128, t="int8"), F(1, d=1024)], grad="01")
        case("quant", n, [I(33, 51, below=256, add=-128, t="int8"), F(1, d=1024)])
        case("quant", n, [I(0, below=256, add=-128, t="int8"), F(1)])
    case("quant", "dequantize_int4", [N([[0x10, 0x78, 0xF8, 0x9A]], t="uint8"), X([0.5])], grad="01")
    case("quant", "dequantize_int4", [I(7, 51, below=256, t="uint8"), F(1)])
    case("quant", "dequantize_blockwise", [I(3, 5, below=256, add=-128, t="int8"), F(4)], [4, 8], grad="01")
    case("quant", "dequantize_blockwise", [I(3, 5, below=256, t="uint8"), F(8)], [4, 4], grad="01")
    case("quant", "dequantize_blockwise", [I(1000, below=256, add=-128, t="int8"), F(8)], [128, 8])
    for v in (0, 1):
        case("quant", "dequantize_fp8", [N(list(range(256)), t="uint8"), X([0.5])], [v])
        case("quant", "dequantize_fp8", [I(3, 5, below=120, t="uint8"), F(1)], [v], grad="01", types=["float32", "bfloat16"])
    case("quant", "dequantize_nf4", [N([[0x10, 0x78, 0xF8, 0x9A]], t="uint8"), X([0.5])], grad="01")
    case("quant", "dequantize_nf4", [I(7, 51, below=256, t="uint8"), F(1)])
    for n in ("dequantize_affine_packed", "dequantize_affine_packed_silu", "dequantize_affine_packed_gelu"):
        case("quant", n, affine(2, 32, 4, 32), [4, 32], grad="011")
        case("quant", n, affine(0, 64, 4, 64), [4, 64])
        for bits in (2, 3, 5, 6, 8):
            case("quant", n, affine(3, 128, bits, 64), [bits, 64])
    case("quant", "dequantize_affine_packed", affine(5, 256, 3, 128), [3, 128])
    case("quant", "dequantize_affine_packed_hi2", affine(2, 64, 4, 32), [32], grad="011")
    case("quant", "dequantize_affine_packed_lo2_delta", affine(2, 64, 4, 32)[:2], [32], grad="01")
    case("quant", "fused_swiglu_quant", [I(3, 5, below=256, add=-128, t="int8"), F(4, d=1024),
         I(3, 5, below=256, add=-128, t="int8"), F(4, d=1024)], [4], grad="0101")
    case("quant", "fused_swiglu_quant", [I(1000, below=256, add=-128, t="int8"), F(8, d=1024),
         I(1000, below=256, add=-128, t="int8"), F(8, d=1024)], [128])
    case("quant", "fused_quantized_swiglu_gemv", [F(2, 64, d=64)] + affine(5, 64, 4, 32) + affine(5, 64, 4, 32), [4, 32],
         grad="1011011")
    for bits in (2, 3, 5, 6, 8):
        case("quant", "fused_quantized_swiglu_gemv", [F(1, 128, d=64)] + affine(19, 128, bits, 64) + affine(19, 128, bits, 64),
             [bits, 64])
    for bits, eps, per in ((4, 0, 0), (4, -1, 0), (4, 3.0, 0), (4, 1.0, 1), (8, 0, 1), (8, 2.0, 0)):
        g = "1011011" if (bits, per) == (4, 0) and eps <= 0 else None
        case("quant", "fused_quantized_swiglu_gemv_progressive", [F(2, 64, d=64)] + affine(5, 64, bits, 32)
             + affine(5, 64, bits, 32), [bits, 32, eps, per],
             grad=g)
    case("quant", "pack_bits", [I(6, 8, t="bool")])
    case("quant", "pack_bits", [I(16, below=3, t="uint8")])
    case("quant", "pack_bits", [I(0, t="bool")])
    case("quant", "unpack_bits", [I(5, 3, below=256, t="uint8")])
    case("quant", "unpack_bits", [I(0, below=256, t="uint8")])


def image_cases():
    for h, w in ((4, 7), (2, 2), (3, 3), (1, 1)):
        case("image", "resize_bilinear", [F(2, 3, 3, 2)], [h, w], grad="1")
    case("image", "resize_bilinear", [F(0, 3, 3, 2)], [4, 4])
    case("image", "resize_bilinear", [F(1, 5, 7, 131)], [9, 4])
    case("image", "depthwise_conv_3x3", [F(1, 3, 4, 2), F(3, 3, 2)], grad="11")
    case("image", "depthwise_conv_3x3", [F(2, 1, 1, 3), F(3, 3, 3)])
    case("image", "depthwise_conv_3x3", [F(1, 6, 5, 131), F(3, 3, 131)])
    case("image", "fused_gather_add", [F(4, 3), N([3, 0, 0]), F(3, 3)], grad="101")
    case("image", "fused_gather_add", [F(4, 3), N([3, 9, -1]), F(3, 3)])
    case("image", "fused_scatter_add", [N([1, 0, 1, 7]), F(4, 3)], [3], grad="01")
    case("image", "fused_scatter_add", [I(60, below=5), F(60, 2, 150)], [5])
    case("image", "fused_scatter_add", [I(0, below=5), F(0, 2)], [5])
    for bits, group in ((4, 8), (2, 32), (8, 5)):
        case("image", "skv_fused_project_quantize", [F(3, 2, 4, d=64), F(2, 4, 3, d=64)], [bits, group], types=["float32"])
    words = [I((12 * 4 * 4 // 32) * 0 + 3, t="uint32"), F(3, t="float32"), F(3, t="float32")]
    case("image", "skv_fused_dequantize_unproject", words + [F(2, 4, 3)], [4, 8, 3, 2, 3], grad="0111")
    case("image", "skv_compressed_attention", words + [F(2, 4, 3)], [4, 8, 3, 2, 3, 0.5], grad="0111")
    for last in (0, 1):
        f = 4
        case("image", "ttt_linear_decode",
             [F(2, f), F(2, f), F(2, f), F(2, m=8, add=9), F(1, m=8, add=9), N([last]), F(2, f, f), F(2, f), F(2, f, f),
                  F(2, f), F(2, f), F(2, f)],
             grad="111110111111", types=["float32"])
    case("image", "ttt_linear_decode",
         [F(3, 64), F(3, 64), F(3, 64), F(3, m=8, add=9), F(1, m=8, add=9), N([1]), F(3, 64, 64, d=128), F(3, 64),
              F(3, 64, 64), F(3, 64), F(3, 64), F(3, 64)], types=["float32"])


def moe_cases():
    distinct = [[1.0, -2.0, 3.0, 0.5, 2.0], [0.25, 4.0, -1.0, 2.5, 3.0]]
    ties = [[2.0, 1.0, 2.0, 2.0, 1.0], [np.nan, 0.0, -0.0, -1.0, np.nan], [-1.0, -np.inf, -2.0, -3.0, -np.inf]]
    case("moe", "top2_gating_softmax", [X(distinct)], grad="1")
    case("moe", "top2_gating_softmax", [X(ties)])
    case("moe", "top2_gating_softmax", [F(5, 64, m=20)])
    for n in ("router_argpartition_logits_topk", "glm_topk_gating"):
        case("moe", n, [X(distinct)], [3], grad="1", name="logits_topk")
        case("moe", n, [X(ties)], [2], name="logits_topk")
        case("moe", n, [F(9, 64, m=100)], [4], name="logits_topk")
        case("moe", n, [F(0, 8)], [4], name="logits_topk")
    # Two of the largest four in places t and t + 32.
    far = np.zeros((1, 64))
    far[0, [3, 35, 4, 36]] = [9.0, 8.0, 7.0, 6.0]
    case("moe", "glm_topk_gating", [X(far)], [4], name="logits_topk")
    for norm in (0, 1):
        case("moe", "topk_gating_softmax", [X(distinct)], [3, norm], grad="1", name="topk_gating")
        case("moe", "topk_gating_softmax", [X(distinct), F(5)], [3, norm], grad="11", name="topk_gating")
        case("moe", "topk_gating_softmax", [F(3, 70, m=9)], [33, norm], name="topk_gating")
        case("moe", "topk_gating_softmax", [X(ties)], [3, norm], name="topk_gating")
    case("moe", "deepseek_router_topk_sigmoid", [X(distinct), F(5)], [2, 1, 1], grad="10")
    case("moe", "deepseek_router_topk_sigmoid", [F(5, 16), F(16)], [4, 4, 2])
    # All scores below 0: experts of groups that were left out must not win with 0.
    case("moe", "deepseek_router_topk_sigmoid", [F(5, 16), X([-3.0 - i / 8 for i in range(16)])], [4, 4, 2])
    case("moe", "deepseek_router_topk_sigmoid", [X([[0.0] * 8])], [3, 1, 1])
    case("moe", "deepseek_router_topk_sigmoid", [F(3, 256), F(256)], [8, 8, 4])
    case("moe", "moe_dispatch", [F(4, 3), N([[1, 0], [2, 1], [0, 2], [1, 1]])], [3], grad="10")
    case("moe", "moe_dispatch", [F(3, 3), N([[1, 7], [-1, 1], [0, 2]])], [3])
    case("moe", "moe_dispatch", [F(50, 33), I(50, 4, below=8)], [8])
    case("moe", "moe_dispatch", [F(0, 3), I(0, 2, below=2)], [2])
    for n in ("moe_combine", "moe_combine_no_fma", "moe_combine_exact", "moe_combine_fp32", "moe_combine_fp32_no_fma", "glm_moe_combine"):
        case("moe", n, [F(2, 3, 4), F(2, 3)], grad="11", name="combine")
        case("moe", n, [F(0, 3, 4), F(0, 3)], name="combine")
        case("moe", n, [F(3, 8, 701), F(3, 8)], name="combine")
        case("moe", n, [F(2, 1, 1), F(2, 1)], name="combine")
    for n in ("gather_mmk_combine", "gather_qmm_combine"):
        case("moe", n, [F(2, 2, 5, d=64), F(3, 5, 4, d=64), F(2, 2), N([[0, 2], [1, 1]])], [0],
             grad="1110", name="gather_mm_combine")
        for kind in range(5):
            case("moe", n, [F(3, 2, 33, d=64), F(4, 33, 17, d=64), F(3, 2), I(3, 2, below=4)], [kind], name="gather_mm_combine")
    for n in ("gather_qmmk_combine_quantized", "gather_qmm_combine_quantized"):
        case("moe", n, [F(2, 2, 32, d=64)] + affine(3, 32, 4, 32, experts=3) + [F(2, 2), N([[0, 2], [1, 1]])], [0, 4, 32],
             grad="101110", name="gather_qmm_combine")
        for bits in (2, 3, 5, 6, 8):
            case("moe", n, [F(3, 2, 128, d=64)] + affine(19, 128, bits, 64, experts=4) + [F(3, 2), I(3, 2, below=4)],
                 [bits % 5, bits, 64], name="gather_qmm_combine")
    case("moe", "gather_qmm_swiglu", [F(2, 1, 32, d=64)] + affine(3, 32, 4, 32, 3) + affine(3, 32, 4, 32, 3) + [N([0, 1, 1]),
         N([2, 0, 1])], [4, 32],
         grad="101101100")
    case("moe", "gather_qmm_swiglu", [F(3, 2, 64, d=64)] + affine(21, 64, 4, 64, 5) + affine(21, 64, 4, 64, 5) + [N([[0],
         [2]]), N([[4, 0, 1]])], [4, 64])
    for bits, group, k, n in ((2, 32, 96, 5), (3, 64, 192, 17), (5, 128, 128, 33), (6, 32, 32, 1), (8, 64, 64, 40), (4, 128, 384, 7)):
        case("moe", "fused_swiglu_gather_qmv", [F(3, k, d=64)] + affine(n, k, bits, group, 4) + affine(n, k, bits, group, 4)
             + [I(3, 2, below=4)], [bits, group])
    case("moe", "fused_swiglu_gather_qmv", [F(2, 32, d=64)] + affine(3, 32, 4, 32, 3) + affine(3, 32, 4, 32, 3) + [N([[2, 0],
         [1, 1]])], [4, 32], grad="10110110")
    case("moe", "fused_swiglu_gather_qmv", [F(2, 32, d=64)] + affine(3, 32, 4, 32, 3) + affine(3, 32, 4, 32, 3) + [N([[2, 5],
         [-1, 1]])], [4, 32])


def layer(a, n, h, f, m):
    """Operands of ttt_linear: h heads of f, small batches of m tokens."""
    d = h * f
    return [F(a, n, d, d=64), F(3 * d + h, d, d=128), F(h, f, f, d=64), F(h, f), F(h, f, m=32, add=33), F(h, f), F(h), F(m, d=256),
            F(d), F(d), F(d, d, d=64)]


def sequence_cases():
    sdpa = "scaled_dot_product_attention"
    case("attention", sdpa, [F(2, 4, 3, 5), F(2, 2, 4, 5), F(2, 2, 4, 2), F(4, 3, 4), F(4)], [0, 0], grad="11111")
    case("attention", sdpa, [F(1, 2, 4, 3), F(1, 1, 4, 3), F(1, 1, 4, 3), F(4, 4), F(2)], [0.5, 1], grad="11111")
    # More queries than keys: the first rows see nothing and take the mean.
    case("attention", sdpa, [F(1, 2, 5, 3), F(1, 2, 3, 3), F(1, 2, 3, 4)], [0, 1])
    case("attention", sdpa, [F(2, 6, 33, 16), F(2, 3, 65, 16), F(2, 3, 65, 8), I(2, 1, 33, 65, t="bool")], [0, 0])
    case("attention", sdpa, [F(1, 2, 9, 8), F(1, 2, 9, 8), F(1, 2, 9, 8), I(9, t="bool"), F(2)], [0, 1])
    case("attention", sdpa, [F(1, 2, 0, 8), F(1, 2, 3, 8), F(1, 2, 3, 8)], [0, 1])
    case("attention", sdpa, [F(1, 8, 1, 64), F(1, 2, 300, 64), F(1, 2, 300, 64)], [0, 1])

    case("image", "ttt_linear", layer(1, 5, 2, 3, 3), [2, 1, 0], grad="1" * 11)
    state = [F(2, 1, 4, 4, d=64), F(2, 1, 4), F(2, 1, 4, 4, d=64), F(2, 1, 4)]
    case("image", "ttt_linear", layer(2, 2, 1, 4, 4) + state, [1, 0.5, 7], grad="1" * 15)
    case("image", "ttt_linear", layer(1, 0, 2, 4, 4), [2, 1, 0])
    case("image", "ttt_linear", layer(2, 37, 4, 8, 16), [4, 1, 0])


def main():
    activation_cases()
    row_cases()
    transformer_cases()
    reduction_cases()
    attention_cases()
    quant_cases()
    image_cases()
    moe_cases()
    sequence_cases()
    folder = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
    for name, cases in groups.items():
        text = "[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n"
        (folder / f"catalog_{name}.json").write_text(text)
        print(f"{name}: {len(cases)} cases, {len(text) // 1024} KB")


if __name__ == "__main__":
    main()
