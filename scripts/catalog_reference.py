"""The rows of the catalog in NumPy, float64: what scripts/make_catalog_cases.py computes expected values with. Each function takes the
row's operands, then its parameters, and gives a tuple of results."""
import numpy as np


def exp(x):
    return np.exp(x)


def log(x):
    return np.log(x)


def tanh(x):
    return np.tanh(x)


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def relu(x):
    return np.maximum(x, 0)


def relu2(x):
    return np.maximum(x, 0) ** 2


def silu(x):
    return x * sigmoid(x)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def mish(x):
    return x * np.tanh(softplus(x))


def elu(x, alpha):
    return (np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),)


def exp_grad(x, g):
    return (g * np.exp(x),)


def log_grad(x, g):
    return (g / x,)


def tanh_grad(x, g):
    return (g * (1 - np.tanh(x) ** 2),)


def sigmoid_grad(x, g):
    return (g * sigmoid(x) * (1 - sigmoid(x)),)


def relu_grad(x, g):
    return (np.where(x > 0, g, 0),)


def relu2_grad(x, g):
    return (np.where(x > 0, 2 * x * g, 0),)


def silu_grad(x, g):
    s = sigmoid(x)
    return (g * (s + x * s * (1 - s)),)


def gelu_tanh_grad(x, g):
    c = np.sqrt(2 / np.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return (g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)),)


def softplus_grad(x, g):
    return (g * sigmoid(x),)


def mish_grad(x, g):
    t = np.tanh(softplus(x))
    return (g * (t + x * (1 - t * t) * sigmoid(x)),)


def elu_grad(x, g, alpha):
    return (np.where(x > 0, g, g * alpha * np.exp(np.minimum(x, 0))),)


# ---- rows ----


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True)) if x.shape[-1] else x
    return e / e.sum(-1, keepdims=True)


def softmax_lastdim(x):
    return (softmax(x),)


def logsumexp(x):
    m = x.max(-1, keepdims=True)
    f = np.where(np.isfinite(m), m, 0)
    return (f + np.log(np.exp(x - f).sum(-1, keepdims=True)))[..., 0]


def log_softmax_lastdim(x):
    m = x.max(-1, keepdims=True)
    return (x - m - np.log(np.exp(x - m).sum(-1, keepdims=True)),)


def softmax_grad(y, g):
    return (y * (g - (g * y).sum(-1, keepdims=True)),)


def rms(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def rmsnorm(x, w, eps):
    return (rms(x, eps) * w,)


glm_rmsnorm = rmsnorm


def rmsnorm_grad(x, w, c, eps):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return (c * w * r - x * r**3 * (c * w * x).mean(-1, keepdims=True),)


def rms_norm_no_weight(x, eps):
    return (rms(x, eps),)


def ln(x, eps):
    d = x - x.mean(-1, keepdims=True)
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + eps)


def layernorm(x, g, b, eps):
    return (ln(x, eps) * g + b,)


def layer_norm_no_weight(x, eps):
    return (ln(x, eps),)


def kept(shape, p, seed):
    n = int(np.prod(shape))
    u = ((np.arange(n, dtype=np.uint64) + int(seed)) & 0xFFFFFFFF) * 1664525 + 1013904223
    u = (u & 0xFFFFFF).astype(np.float64) / 2**24
    return (u >= p).reshape(shape) / (1 - p)


def layer_norm_dropout(x, g, b, p, seed, eps):
    return (layernorm(x, g, b, eps)[0] * kept(x.shape, p, seed),)


def rms_norm_dropout(x, w, p, seed, eps):
    return (rmsnorm(x, w, eps)[0] * kept(x.shape, p, seed),)


def dropout(x, p, seed):
    return (x * kept(x.shape, p, seed),)


def residual_rmsnorm(x, r, w, eps):
    return rmsnorm(x + r, w, eps)


def add_rms_norm(x, r, w, eps):
    return rmsnorm(x + r, w, eps)[0], x + r


def layernorm_residual(x, r, g, b, eps):
    return layernorm(x + r, g, b, eps)[0], x + r


# ---- transformer ----


def swiglu2(g, u):
    return (silu(g) * u,)


glm_fused_swiglu = silu_mul = swiglu2


def geglu2(g, u):
    return (gelu_tanh(g) * u,)


def swiglu(x):
    return swiglu2(*np.split(x, 2, -1))


def geglu(x):
    return geglu2(*np.split(x, 2, -1))


def bias_swiglu(x, b):
    return swiglu(x + b)


def bias_geglu(x, b):
    return geglu(x + b)


def add(a, b):
    return (a + b,)


add_bias = add


def mul(a, b):
    return (a * b,)


def bias_gelu_tanh(x, b):
    return (gelu_tanh(x + b),)


def bias_silu(x, b):
    return (silu(x + b),)


def fused_linear_bias_silu(x, w, b):
    return (silu(x @ w.T + b),)


def fused_linear_bias_gelu(x, w, b):
    return (gelu_tanh(x @ w.T + b),)


def fused_linear_rmsnorm(x, w, g, eps):
    return rmsnorm(x @ w.T, g, eps)


def fused_recurrent_step(h, w, gate, alpha, eps):
    return (h + alpha * silu(rms(h, eps) * w) * gate,)


def depth_gate_sigmoid(x, k_max):
    return (sigmoid(x) * k_max,)


def grpo_advantage_norm(r, eps):
    return (ln(r, eps),)


def silu_mul_residual(g, u, r):
    return (silu(g) * u + r,)


def adamw_step(p, g, m, v, lr, step, b1, b2, eps, wd):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    return p - lr * (m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + eps) + wd * p), m, v


# ---- reductions ----


def sum_lastdim(x):
    return (x.sum(-1),)


def mean_lastdim(x, kahan):
    return (x.mean(-1),)


def max_lastdim(x):
    return (x.max(-1),)


def var_lastdim(x):
    return (x.var(-1),)


def std_lastdim(x, eps):
    return (np.sqrt(x.var(-1) + eps),)


def argmax_lastdim(x):
    return (x.argmax(-1).astype(np.int64),)  # the first NaN, else the lowest among equals


def order(x, k):
    """Places of the k largest: falling, NaN below everything, the lowest among equals."""
    key = np.where(np.isnan(x), -np.inf, x)
    nan = np.isnan(x)
    index = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    return np.lexsort((index, -key, nan), axis=-1)[..., :k]


def pick(x, i):
    return np.take_along_axis(x, i, -1)


def topk_lastdim(x, k):
    i = order(x, int(k))
    return pick(x, i), i


def cumsum_lastdim(x):
    return (np.cumsum(x, -1),)


def cumsum_grad(g):
    return (np.cumsum(g[..., ::-1], -1)[..., ::-1],)


def logsumexp_lastdim(x):
    return (logsumexp(x),)


def masked_softmax(x, mask):
    mask = np.broadcast_to(mask.astype(bool), x.shape)
    v = np.where(mask, x, -np.inf)
    m = v.max(-1, keepdims=True)
    e = np.where(mask, np.exp(np.where(mask, x, 0) - np.where(np.isfinite(m), m, 0)), 0)
    s = e.sum(-1, keepdims=True)
    return (np.where(mask, e / np.where(s == 0, 1, s), 0),)


def scale_mask_softmax(x, mask, scale):
    return masked_softmax(x * scale, mask)


def softmax_cross_entropy(x, t, ignored):
    t = t.astype(int)
    good = (t >= 0) & (t < x.shape[-1])
    loss = logsumexp(x) - pick(x, np.where(good, t, 0)[..., None])[..., 0]
    return (np.where(t == ignored, 0, np.where(good, loss, np.nan)),)


def softmax_cross_entropy_grad(x, t, g, ignored):
    onehot = np.arange(x.shape[-1]) == t[..., None]
    return (np.where((t == ignored)[..., None], 0, g[..., None] * (softmax(x) - onehot)),)


# ---- attention ----


def attention_tile_proto(q, k):
    return (q @ k.T,)


def paged_attention(q, kc, vc, table, lens, scale):
    b, h, d = q.shape
    nb, bs, hkv, _ = kc.shape
    scale = scale or d**-0.5
    out = np.zeros_like(q)
    for i in range(b):
        n = min(int(lens[i]), table.shape[1] * bs)
        at = [(table[i, t // bs], t % bs) for t in range(n)]
        at = [a for a in at if 0 <= a[0] < nb]
        if not at:
            continue
        k = np.stack([kc[a] for a in at])
        v = np.stack([vc[a] for a in at])
        for j in range(h):
            p = softmax(scale * k[:, j // (h // hkv)] @ q[i, j])
            out[i, j] = p @ v[:, j // (h // hkv)]
    return (out,)


def scaled_dot_product_attention(q, k, v, *rest):
    """rest: mask and sinks, if any, then scale and causal."""
    *more, scale, causal = rest
    share, rows, length = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    k, v = np.repeat(k, share, 1), np.repeat(v, share, 1)
    x = (scale or q.shape[3] ** -0.5) * q @ np.swapaxes(k, -1, -2)
    lowest = -np.finfo(np.float32).max
    if more and more[0].dtype.kind in "iub":
        x = np.where(more[0].astype(bool), x, lowest)
    elif more:
        x = x + more[0]
    if causal:
        x = np.where(np.arange(length) <= np.arange(rows)[:, None] + length - rows, x, lowest)
    if len(more) > 1:
        x = np.concatenate([np.broadcast_to(more[1][:, None, None], x.shape[:-1] + (1,)), x], -1)
    p = softmax(x) if x.shape[-1] else x
    return (p[..., p.shape[-1] - length:] @ v,)


def turn(x, c, s, interleaved):
    y = np.empty_like(x)
    h = x.shape[-1] // 2
    a, b = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, h), slice(h, None))
    y[..., a] = x[..., a] * c - x[..., b] * s
    y[..., b] = x[..., a] * s + x[..., b] * c
    return y


def apply_rope(x, c, s):
    return (turn(x, c, s, False),)


def apply_rope_interleaved(x, c, s):
    return (turn(x, c, s, True),)


def apply_gqa_rope(x, c, s, kv):
    return (turn(x, c[:, None], s[:, None], False),)


def rope_and_cache_update(q, k, v, c, s, kc, vc, offset):
    # Rows of the tables and of the caches out of range: zeros, and nothing is written.
    row = [c[o] if o < len(c) else 0 * c[0] for o in offset], [s[o] if o < len(s) else 0 * s[0] for o in offset]
    cc, ss = np.stack(row[0])[:, None], np.stack(row[1])[:, None]
    kc, vc = kc.copy(), vc.copy()
    kr = turn(k, cc, ss, False)
    for b, o in enumerate(offset):
        if o < kc.shape[1]:
            kc[b, o] = kr[b]
            vc[b, o] = v[b]
    return turn(q, cc, ss, False), kc, vc


def paged_rope_and_cache_update(q, k, v, c, s, kc, vc, offset, table):
    cc, ss = c[offset][:, None], s[offset][:, None]
    kc, vc = kc.copy(), vc.copy()
    kr = turn(k, cc, ss, False)
    bs = kc.shape[1]
    for b, o in enumerate(offset):
        if o // bs < table.shape[1] and 0 <= table[b, o // bs] < len(kc):
            kc[table[b, o // bs], o % bs] = kr[b]
            vc[table[b, o // bs], o % bs] = v[b]
    return turn(q, cc, ss, False), kc, vc


def rope_concat_qk_decode_pos(qn, qr, kn, kr, c, s):
    return np.concatenate([qn, turn(qr, c, s, True)], -1), np.concatenate([kn, turn(kr, c, s, True)], -1)


def rope_concat_qk_decode(qn, qr, kn, kr, c, s, offset):
    o = int(abs(offset))
    return rope_concat_qk_decode_pos(qn, qr, kn, kr, c[o], s[o] if offset >= 0 else -s[o])


# ---- quantized ----


def dequantize_int8(x, s):
    return (x * s,)


def dequantize_silu_int8(x, s):
    return (silu(x * s),)


def nibbles(x):
    return np.stack([x & 15, x >> 4], -1).reshape(*x.shape[:-1], -1)


def dequantize_int4(x, s):
    c = nibbles(x)
    return (np.where(c < 8, c, c - 16) * s,)


def dequantize_blockwise(x, s, block, bits):
    c = nibbles(x) if bits == 4 else x
    return ((c.ravel() * np.repeat(s, int(block))[: c.size]).reshape(c.shape),)


def fp8(code, e5m2):
    e_bits, m_bits = (5, 2) if e5m2 else (4, 3)
    bias = 2 ** (e_bits - 1) - 1
    sign = -1.0 if code & 128 else 1.0
    e, m = code >> m_bits & (2**e_bits - 1), code & (2**m_bits - 1)
    if e5m2 and e == 31:
        return sign * np.inf if m == 0 else np.nan
    if not e5m2 and e == 15 and m == 7:
        return np.nan
    return sign * (m * 2.0 ** (1 - bias - m_bits) if e == 0 else (1 + m / 2**m_bits) * 2.0 ** (e - bias))


def dequantize_fp8(x, s, variant):
    return (np.vectorize(lambda c: fp8(int(c), variant))(x) * s,)


NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def dequantize_nf4(x, s):
    return (np.array(NF4)[nibbles(x)] * s,)


def codes(words, bits):
    """The bit stream of each row, little endian."""
    b = (words[..., None] >> np.arange(32)) & 1
    b = b.reshape(*words.shape[:-1], words.shape[-1] * 32)
    n = b.shape[-1] // int(bits)
    return (b[..., : n * int(bits)].reshape(*words.shape[:-1], n, int(bits)) << np.arange(int(bits))).sum(-1)


def spread(s, group):
    return np.repeat(s, int(group), -1)


def dequantize_affine_packed(w, s, b, bits, group):
    return (codes(w, bits) * spread(s, group) + spread(b, group),)


def dequantize_affine_packed_silu(*a):
    return (silu(dequantize_affine_packed(*a)[0]),)


def dequantize_affine_packed_gelu(*a):
    return (gelu_tanh(dequantize_affine_packed(*a)[0]),)


def dequantize_affine_packed_hi2(w, s, b, group):
    return ((codes(w, 4) & 12) * spread(s, group) + spread(b, group),)


def dequantize_affine_packed_lo2_delta(w, s, group):
    return ((codes(w, 4) & 3) * spread(s, group),)


def fused_swiglu_quant(a, s, b, t, block):
    n = a.size
    return ((silu(a.ravel() * np.repeat(s, int(block))[:n]) * (b.ravel() * np.repeat(t, int(block))[:n])).reshape(a.shape),)


def fused_quantized_swiglu_gemv(x, gw, gs, gb, uw, us, ub, bits, group):
    g, u = dequantize_affine_packed(gw, gs, gb, bits, group)[0], dequantize_affine_packed(uw, us, ub, bits, group)[0]
    return (silu(x @ g.T) * (x @ u.T),)


def fused_quantized_swiglu_gemv_progressive(x, gw, gs, gb, uw, us, ub, bits, group, eps, per_group):
    low = 3 if bits == 4 else 63
    group = int(group)
    sums = np.abs(x).reshape(len(x), -1, group).sum(-1)  # [M, G]
    bound = [sums[:, None] * np.abs(s) * low for s in (gs, us)]  # [M, N, G]
    if per_group:
        refine = (bound[0] > eps) | (bound[1] > eps)
    else:
        refine = ((bound[0].sum(-1) > eps) | (bound[1].sum(-1) > eps))[..., None] & np.ones(bound[0].shape, bool)
    refine &= eps >= 0
    y = []
    for w, s, b in ((gw, gs, gb), (uw, us, ub)):
        c = codes(w, bits)
        high, rest = (c & ~low) * spread(s, group) + spread(b, group), (c & low) * spread(s, group)
        y.append((x[:, None] * (high + np.repeat(refine, group, -1) * rest)).sum(-1))
    return (silu(y[0]) * y[1],)


def pack_bits(x):
    return (np.packbits(x.ravel() != 0, bitorder="little").astype(np.int64),)


def unpack_bits(x):
    return (np.unpackbits(x.ravel().astype(np.uint8), bitorder="little").astype(np.int64),)


# ---- images, rows, codecs ----


def between(n, to):
    at = (np.arange(to) + 0.5) * (n / to) - 0.5
    low = np.floor(at).astype(int)
    m = np.zeros((to, n))
    for i in range(to):
        m[i, min(max(low[i], 0), n - 1)] += 1 - (at[i] - low[i])
        m[i, min(max(low[i] + 1, 0), n - 1)] += at[i] - low[i]
    return m


def resize_bilinear(x, h, w):
    return (np.einsum("yh,xw,nhwc->nyxc", between(x.shape[1], int(h)), between(x.shape[2], int(w)), x),)


def depthwise_conv_3x3(x, w):
    p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, wd = x.shape[1:3]
    return (sum(p[:, i : i + h, j : j + wd] * w[i, j] for i in range(3) for j in range(3)),)


def fused_gather_add(src, i, other):
    good = (i >= 0) & (i < len(src))
    return (src[np.where(good, i, 0)] * good[:, None] + other,)


def fused_scatter_add(i, u, rows):
    y = np.zeros((int(rows),) + u.shape[1:])
    for m in range(len(i)):
        if 0 <= i[m] < len(y):
            y[i[m]] += u[m]
    return (y,)


def skv_fused_project_quantize(kv, basis, bits, group):
    c = np.einsum("shd,hdr->shr", kv, basis).ravel()
    group, most = int(group), 2 ** int(bits) - 1
    n = -(-c.size // group)
    q, scales, zeros = np.zeros(n * group, np.int64), [], []
    for g in range(n):
        v = c[g * group : (g + 1) * group]
        scale = (v.max() - v.min()) / most if v.max() > v.min() else 1.0
        q[g * group : g * group + v.size] = np.clip(np.rint((v - v.min()) / scale), 0, most)
        scales.append(scale)
        zeros.append(v.min())
    # Padding takes the code that a coefficient of 0 has.
    pad = np.arange(n * group) >= c.size
    q[pad] = np.clip(np.rint((0 - zeros[-1]) / scales[-1]), 0, most)
    bits = int(bits)
    words = -(-q.size * bits // 32)
    flat = np.zeros(words * 32 // bits, np.int64)
    flat[: q.size] = q
    stream = ((flat[:, None] >> np.arange(bits)) & 1).ravel()
    return (stream.reshape(words, 32) << np.arange(32)).sum(-1), np.array(scales), np.array(zeros)


def skv_coefficients(w, s, z, bits, group, S, H, R):
    n, group = int(S * H * R), int(group)
    return (codes(w, bits)[: len(s) * group] * np.repeat(s, group) + np.repeat(z, group))[:n].reshape(int(S), int(H), int(R))


def skv_fused_dequantize_unproject(w, s, z, basis, *p):
    return (np.einsum("shr,hdr->shd", skv_coefficients(w, s, z, *p), basis),)


def skv_compressed_attention(w, s, z, q, bits, group, S, H, R, scale):
    k = skv_coefficients(w, s, z, bits, group, S, H, R)
    k = np.repeat(k, q.shape[1] // k.shape[1], 1)
    return (scale * np.einsum("qhr,khr->hqk", q, k),)


def ttt_linear_decode(xq, xk, xv, lr, token, last, W, b, WG, bG, lw, lb):
    eps, f = 1e-6, xq.shape[-1]
    z = np.einsum("bf,bfg->bg", xk, W) + b
    r = 1 / np.sqrt(z.var(-1, keepdims=True) + eps)
    h = (z - z.mean(-1, keepdims=True)) * r
    d = (lw * h + lb - (xv - xk)) * lw
    g = lr[:, None] * (f * d - d.sum(-1, keepdims=True) - h * (d * h).sum(-1, keepdims=True)) * r / f
    WG, bG = WG + xk[:, :, None] * g[:, None], bG + g
    W2, b2 = W - token * WG, b - token * bG
    out = xq + lw * ln(np.einsum("bf,bfg->bg", xq, W2) + b2, eps) + lb
    if last[0] > 0:
        return out, W2, b2, WG * 0, bG * 0
    return out, W, b, WG, bG


def ttt_linear(x, proj, W0, b0, lw, lb, lr_bias, token_bias, pw, pb, out, *rest):
    """rest: the state, if any, then heads, base_lr and position. One token after another."""
    *state, heads, base, position = rest
    heads, m, position = int(heads), token_bias.size, int(position) if state else 0
    a, n, d = x.shape
    f = d // heads
    rows = x @ proj.T

    def split(first):
        return rows[..., first:first + d].reshape(a, n, heads, f).transpose(0, 2, 1, 3).reshape(a * heads, n, f)

    q, k, v = split(0), split(d), split(2 * d)
    lr = (base / f * sigmoid(rows[..., 3 * d:] + lr_bias)).transpose(0, 2, 1).reshape(a * heads, n)
    if state:
        W, b, WG, bG = (s.reshape((a * heads,) + s.shape[2:]) for s in state)
    else:
        W, b = np.tile(W0, (a, 1, 1)), np.tile(b0, (a, 1))
        WG, bG = W * 0, b * 0
    y = np.zeros_like(q)
    for t in range(n):
        at = (position + t) % m
        token = max(0, 1 / (at + 1) + token_bias[at])
        y[:, t], W, b, WG, bG = ttt_linear_decode(q[:, t], k[:, t], v[:, t], lr[:, t], token, [at == m - 1], W, b, WG, bG,
                                                  np.tile(lw, (a, 1)), np.tile(lb, (a, 1)))
    y = ln(y.reshape(a, heads, n, f).transpose(0, 2, 1, 3).reshape(a, n, d), 1e-5) * pw + pb
    return (y @ out.T,) + tuple(s.reshape((a, heads) + s.shape[1:]) for s in (W, b, WG, bG))


# ---- mixture of experts ----


def logits_topk(x, k):
    i = order(x, int(k))
    return softmax(pick(x, i)), i


def top2_gating_softmax(x):
    return logits_topk(x, 2)


def topk_gating(x, *rest):
    bias = rest[0] if len(rest) == 3 else None
    k, norm = int(rest[-2]), rest[-1]
    if bias is None and norm:
        return logits_topk(x, k)
    s = softmax(x)
    if bias is not None:
        s = s + bias
    i = order(s, k)
    w = pick(s, i)
    return (w / (w.sum(-1, keepdims=True) + 1e-20) if norm else w), i


def deepseek_router_topk_sigmoid(x, *rest):
    bias = rest[0] if len(rest) == 4 else 0
    k, groups, top = (int(v) for v in rest[-3:])
    a = sigmoid(x)
    s = a + bias
    if groups > 1:
        g = np.sort(s.reshape(len(x), groups, -1), -1)[..., -2:].sum(-1)
        keep = np.zeros(g.shape, bool)
        np.put_along_axis(keep, order(g, top), True, -1)
        s = np.where(np.repeat(keep, x.shape[-1] // groups, -1), s, -np.inf)
    i = order(s, k)
    w = pick(a, i)
    return w / w.sum(-1, keepdims=True), i


def moe_dispatch(x, idx, experts):
    flat = idx.ravel()
    key = np.where((flat >= 0) & (flat < experts), flat, int(experts))
    o = np.argsort(key, kind="stable")
    rows = x[o // idx.shape[1]] * (key[o] < experts)[:, None]
    place = np.empty_like(o)
    place[o] = np.arange(o.size)
    offsets = np.array([(key < e).sum() for e in range(int(experts) + 1)])
    return rows, place.reshape(idx.shape), o, offsets


def combine(y, w):
    return ((y * w[..., None]).sum(-2),)


def gather_mm_combine(act, w, gate, idx, kind):
    return combine(np.einsum("bki,bkio->bko", act, w[idx]), gate)


def gather_qmm_combine(act, w, s, b, gate, idx, kind, bits, group):
    m = dequantize_affine_packed(w, s, b, bits, group)[0]
    return combine(np.einsum("bki,bkoi->bko", act, m[idx]), gate)


def gather_qmm_swiglu(x, gw, gs, gb, uw, us, ub, lhs, rhs, bits, group):
    g, u = dequantize_affine_packed(gw, gs, gb, bits, group)[0], dequantize_affine_packed(uw, us, ub, bits, group)[0]
    lhs, rhs = np.broadcast_arrays(lhs, rhs)
    a = np.einsum("...mk,...nk->...mn", x[lhs], g[rhs])
    return (silu(a) * np.einsum("...mk,...nk->...mn", x[lhs], u[rhs]),)


def fused_swiglu_gather_qmv(x, gw, gs, gb, uw, us, ub, experts, bits, group):
    g, u = dequantize_affine_packed(gw, gs, gb, bits, group)[0], dequantize_affine_packed(uw, us, ub, bits, group)[0]
    good = (experts >= 0) & (experts < len(g))
    e = np.where(good, experts, 0)
    y = silu(np.einsum("rk,rsnk->rsn", x, g[e])) * np.einsum("rk,rsnk->rsn", x, u[e])
    return (y * good[..., None],)
