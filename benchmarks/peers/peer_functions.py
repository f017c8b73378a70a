"""What a user of MLX or NumPy would write for each row of the catalog: functions of (library, operands, parameters), used by beside_mlx.py.

MLX: its own fast function where it has one, else its operations, which are timed plainly and under mx.compile. Operands are those of the
row's sample, in its order.
"""


def _sigmoid(mx, x):
    return mx.sigmoid(x)


def _softplus(mx, x):
    return mx.logaddexp(x, mx.zeros_like(x))


def _gelu(mx, x):
    return 0.5 * x * (1 + mx.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


def _silu(mx, x):
    return x * mx.sigmoid(x)


def _halves(mx, x):
    return mx.split(x, 2, axis=-1)


def _grad(f):
    """The gradient of an activation for a cotangent, as mx.vjp gives it."""
    return lambda mx, a, p: mx.vjp(lambda x: f(mx, x), [a[0]], [a[1]])[1]


def _mish(mx, x):
    return x * mx.tanh(_softplus(mx, x))


def _elu(mx, x):
    return mx.where(x > 0, x, mx.exp(x) - 1)


def _layer_norm(mx, x, w, b, eps):
    return mx.fast.layer_norm(x, w, b, eps)


def _rotate(mx, x, c, s):
    d = x.shape[-1] // 2
    a, b = x[..., :d], x[..., d:]
    return mx.concatenate([a * c - b * s, a * s + b * c], axis=-1)


def _rotate_pairs(mx, x, c, s):
    a, b = x[..., 0::2], x[..., 1::2]
    return mx.stack([a * c - b * s, a * s + b * c], axis=-1).reshape(x.shape)


def _dropout(mx, x, p):
    return mx.where(mx.random.bernoulli(1 - p, x.shape), x * (1 / (1 - p)), mx.zeros_like(x))


def _cross_entropy(mx, a):
    return mx.logsumexp(a[0], axis=-1) - mx.take_along_axis(a[0], a[1][:, None], axis=-1)[:, 0]


def _cross_entropy_grad(mx, a):
    return mx.vjp(lambda x: _cross_entropy(mx, [x, a[1]]), [a[0]], [a[2]])[1]


def _adamw(mx, a, p):
    w, g, m, v = a
    m = p["beta1"] * m + (1 - p["beta1"]) * g
    v = p["beta2"] * v + (1 - p["beta2"]) * g * g
    mh, vh = m / (1 - p["beta1"] ** p["step"]), v / (1 - p["beta2"] ** p["step"])
    w = w - p["lr"] * (mh / (mx.sqrt(vh) + p["eps"]) + p["weight_decay"] * w)
    return w, m, v


def _topk_gating(mx, x, k):
    at = mx.argpartition(-x, k - 1, axis=-1)[..., :k]
    return mx.softmax(mx.take_along_axis(x, at, axis=-1), axis=-1), at


def _deepseek(mx, a, k):
    s = mx.sigmoid(a[0])
    at = mx.argpartition(-(s + a[1]), k - 1, axis=-1)[..., :k]
    w = mx.take_along_axis(s, at, axis=-1)
    return w / w.sum(-1, keepdims=True), at


def _combine(mx, a):
    return (a[0] * a[1][..., None]).sum(-2)


def _dequantize(mx, a, p):
    return mx.dequantize(a[0], a[1], a[2], group_size=int(p.get("group_size", 64)), bits=int(p.get("bits", 4)))


def _qmm(mx, x, a, p):
    return mx.quantized_matmul(x, *a, transpose=True, group_size=int(p.get("group_size", 64)), bits=int(p.get("bits", 4)))


def _gather_qmm(mx, x, a, rhs, p, lhs=None):
    return mx.gather_qmm(x, *a, lhs_indices=lhs, rhs_indices=rhs, transpose=True, group_size=int(p["group_size"]), bits=int(p["bits"]))


def _gated(mx, x, a, rhs, p, lhs=None):
    return _silu(mx, _gather_qmm(mx, x, a[1:4], rhs, p, lhs)) * _gather_qmm(mx, x, a[4:7], rhs, p, lhs)


def _mmk(mx, a):
    y = mx.gather_mm(a[0][..., None, :], a[1], rhs_indices=a[3])[..., 0, :]
    return (y * a[2][..., None]).sum(-2)


def _qmmk(mx, a, p):
    y = _gather_qmm(mx, a[0][..., None, :], a[1:4], a[5], p)[..., 0, :]
    return (y * a[4][..., None]).sum(-2)


def _with(mx, cache, at, rows):
    """The cache with other rows at some places, as a new array."""
    cache = mx.stop_gradient(cache)
    cache[at] = rows
    return cache


def _rope_update(mx, a):
    q, k, v, c, s, keys, values, offset = a
    c, s = c[offset][:, None], s[offset][:, None]
    at = (mx.arange(q.shape[0]), offset)
    return _rotate(mx, q, c, s), _with(mx, keys, at, _rotate(mx, k, c, s)), _with(mx, values, at, v)


def _rope_update_paged(mx, a):
    q, k, v, c, s, keys, values, offset, table = a
    size = keys.shape[1]
    c, s = c[offset][:, None], s[offset][:, None]
    at = (table[mx.arange(q.shape[0]), offset // size], offset % size)
    return _rotate(mx, q, c, s), _with(mx, keys, at, _rotate(mx, k, c, s)), _with(mx, values, at, v)


def _rope_concat(mx, a, c, s):
    q = mx.concatenate([a[0], _rotate_pairs(mx, a[1], c, s)], axis=-1)
    return q, mx.concatenate([a[2], _rotate_pairs(mx, a[3], c, s)], axis=-1)


def _nibbles(mx, x):
    return mx.stack([x & 15, x >> 4], axis=-1).reshape(*x.shape[:-1], -1)


def _int4(mx, a):
    return ((_nibbles(mx, a[0]) ^ 8).astype(mx.float32) - 8) * a[1]


_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def _swiglu_quant(mx, a, block):
    return _silu(mx, _blockwise(mx, a, block)) * _blockwise(mx, a[2:], block)


def _bilinear(mx, x, height, width):
    def between(n, to):
        at = (mx.arange(to) + 0.5) * (n / to) - 0.5
        low = mx.floor(at)
        return mx.clip(low, 0, n - 1).astype(mx.int32), mx.clip(low + 1, 0, n - 1).astype(mx.int32), at - low

    low, high, part = between(x.shape[1], height)
    part = part[:, None, None]
    x = x[:, low] * (1 - part) + x[:, high] * part
    low, high, part = between(x.shape[2], width)
    part = part[:, None]
    return x[:, :, low] * (1 - part) + x[:, :, high] * part


def _project_quantize(mx, a, bits, group):
    c = (a[0].transpose(1, 0, 2) @ a[1]).transpose(1, 0, 2).reshape(-1, group)
    low, high = c.min(-1, keepdims=True), c.max(-1, keepdims=True)
    scale = mx.where(high > low, (high - low) / (2**bits - 1), 1)
    q = mx.clip(mx.round((c - low) / scale), 0, 2**bits - 1).astype(mx.uint32)
    words = (q.reshape(-1, 32 // bits) << mx.arange(0, 32, bits, dtype=mx.uint32)).sum(-1)
    return words, scale[:, 0], low[:, 0]


def _coefficients(mx, a, p):
    bits, group = int(p["bits"]), int(p["group_size"])
    q = (a[0][:, None] >> mx.arange(0, 32, bits, dtype=mx.uint32)) & (2**bits - 1)
    c = q.reshape(-1, group).astype(mx.float32) * a[1][:, None] + a[2][:, None]
    return c.reshape(int(p["S"]), int(p["H"]), int(p["R"]))


def _unproject(mx, a, p):
    return (_coefficients(mx, a, p).transpose(1, 0, 2) @ a[3].swapaxes(-1, -2)).transpose(1, 0, 2)


def _compressed_attention(mx, a, p):
    k = _coefficients(mx, a, p).transpose(1, 2, 0)
    q = a[3].transpose(1, 0, 2).reshape(k.shape[0], -1, k.shape[1])
    return p["scale"] * (q @ k).reshape(a[3].shape[1], a[3].shape[0], -1)


def _ttt(mx, a):
    xq, xk, xv, rate, token, last, w, b, wg, bg, weight, bias = a
    f = xq.shape[-1]
    z = (xk[:, None] @ w)[:, 0] + b
    r = mx.rsqrt(mx.var(z, axis=-1, keepdims=True) + 1e-6)
    h = (z - z.mean(-1, keepdims=True)) * r
    d = (weight * h + bias - (xv - xk)) * weight
    g = rate[:, None] * (f * d - d.sum(-1, keepdims=True) - h * (d * h).sum(-1, keepdims=True)) * r / f
    wg, bg = wg + xk[:, :, None] * g[:, None], bg + g
    w2, b2 = w - token * wg, b - token * bg
    y = (xq[:, None] @ w2)[:, 0] + b2
    out = xq + weight * mx.fast.layer_norm(y, None, None, 1e-6) + bias
    done = last > 0
    return out, mx.where(done, w2, w), mx.where(done, b2, b), mx.where(done, 0, wg), mx.where(done, 0, bg)


def _blockwise(mx, a, block):
    return (a[0].reshape(-1, block).astype(mx.float32) * a[1][:, None]).reshape(a[0].shape)


def _np_standardize(np, r, eps):
    return (r - r.mean(-1, keepdims=True)) / np.sqrt(r.var(-1, keepdims=True) + np.float32(eps))


def _depthwise(mx, a):
    return mx.conv2d(a[0], mx.transpose(a[1], (2, 0, 1))[..., None], padding=1, groups=a[0].shape[-1])


def _paged(mx, a):
    q, keys, values, table, lens = a
    b, h, d = q.shape
    k = keys[table].reshape(b, -1, keys.shape[2], d).transpose(0, 2, 1, 3)
    v = values[table].reshape(b, -1, keys.shape[2], d).transpose(0, 2, 1, 3)
    mask = (mx.arange(k.shape[2])[None, :] < lens[:, None])[:, None, None, :]
    return mx.fast.scaled_dot_product_attention(q[:, :, None, :], k, v, scale=d**-0.5, mask=mask)[:, :, 0]


def _norm_row(mx, h, w, eps):
    return mx.fast.rms_norm(h, w, eps)


def _sum_norm(mx, a, p):
    h = a[0] + a[1]
    return mx.fast.rms_norm(h, a[2], p["eps"]), h


def _sum_layer_norm(mx, a, p):
    h = a[0] + a[1]
    return mx.fast.layer_norm(h, a[2], a[3], p["eps"]), h


def _masked(mx, x, mask):
    return mx.softmax(mx.where(mask, x, mx.array(float("-inf"), x.dtype)), axis=-1)


def _standardize(mx, r, eps):
    m = r.mean(-1, keepdims=True)
    return (r - m) * mx.rsqrt(((r - m) ** 2).mean(-1, keepdims=True) + eps)


def _rms_grad(mx, a, p):
    return mx.vjp(lambda x: mx.fast.rms_norm(x, a[1], p["eps"]), [a[0]], [a[2]])[1]


def _attention(mx, a, p):
    return mx.fast.scaled_dot_product_attention(a[0], a[1], a[2], scale=p["scale"] or a[0].shape[-1] ** -0.5)


def _ttt_layer(mx, x, projection, w, b, weight, bias, rate_bias, token_bias, post_weight, post_bias, output, heads, base):
    batch, n, d = x.shape
    f, m = d // heads, token_bias.shape[0]
    rows = x @ projection.T
    split = lambda first: rows[..., first : first + d].reshape(batch, n, heads, f).transpose(0, 2, 1, 3).reshape(-1, n, f)
    q, k, v = split(0), split(d), split(2 * d)
    rate = (base / f * mx.sigmoid(rows[..., 3 * d :] + rate_bias)).transpose(0, 2, 1).reshape(-1, n)
    w, b, weight, bias = mx.tile(w, (batch, 1, 1)), mx.tile(b, (batch, 1)), mx.tile(weight, (batch, 1)), mx.tile(bias, (batch, 1))
    wg, bg, results = mx.zeros_like(w), mx.zeros_like(b), []
    for t in range(n):
        token = mx.maximum(0, 1 / (t % m + 1) + token_bias[t % m])
        last = mx.array(t % m == m - 1)
        y, w, b, wg, bg = _ttt(mx, [q[:, t], k[:, t], v[:, t], rate[:, t], token, last, w, b, wg, bg, weight, bias])
        results.append(y)
    y = mx.stack(results, axis=1).reshape(batch, heads, n, f).transpose(0, 2, 1, 3).reshape(batch, n, d)
    y = mx.fast.layer_norm(y, post_weight, post_bias, 1e-5) @ output.T
    return (y, *(s.reshape(batch, heads, *s.shape[1:]) for s in (w, b, wg, bg)))


_ONE = {
    "exp": lambda mx, x: mx.exp(x),
    "log": lambda mx, x: mx.log(x),
    "tanh": lambda mx, x: mx.tanh(x),
    "sigmoid": _sigmoid,
    "relu": lambda mx, x: mx.maximum(x, 0),
    "relu2": lambda mx, x: mx.square(mx.maximum(x, 0)),
    "silu": _silu,
    "gelu_tanh": _gelu,
    "softplus": _softplus,
    "mish": _mish,
    "elu": _elu,
}

MLX = {
    **{name: (lambda f: lambda mx, a, p: f(mx, a[0]))(f) for name, f in _ONE.items()},
    **{name + "_grad": _grad(f) for name, f in _ONE.items()},
    "add": lambda mx, a, p: a[0] + a[1],
    "mul": lambda mx, a, p: a[0] * a[1],
    "silu_mul": lambda mx, a, p: _silu(mx, a[0]) * a[1],
    "add_bias": lambda mx, a, p: a[0] + a[1],
    "bias_gelu_tanh": lambda mx, a, p: _gelu(mx, a[0] + a[1]),
    "bias_silu": lambda mx, a, p: _silu(mx, a[0] + a[1]),
    "softmax_lastdim": lambda mx, a, p: mx.softmax(a[0], axis=-1),
    "log_softmax_lastdim": lambda mx, a, p: a[0] - mx.logsumexp(a[0], axis=-1, keepdims=True),
    "softmax_grad": lambda mx, a, p: a[0] * (a[1] - (a[0] * a[1]).sum(-1, keepdims=True)),
    "rmsnorm": lambda mx, a, p: mx.fast.rms_norm(a[0], a[1], p["eps"]),
    "glm_rmsnorm": lambda mx, a, p: mx.fast.rms_norm(a[0], a[1], p["eps"]),
    "rmsnorm_grad": _rms_grad,
    "rms_norm_no_weight": lambda mx, a, p: mx.fast.rms_norm(a[0], None, p["eps"]),
    "layernorm": lambda mx, a, p: _layer_norm(mx, a[0], a[1], a[2], p["eps"]),
    "layer_norm_no_weight": lambda mx, a, p: _layer_norm(mx, a[0], None, None, p["eps"]),
    "layer_norm_dropout": lambda mx, a, p: _dropout(mx, _layer_norm(mx, a[0], a[1], a[2], p["eps"]), p["p"]),
    "rms_norm_dropout": lambda mx, a, p: _dropout(mx, mx.fast.rms_norm(a[0], a[1], p["eps"]), p["p"]),
    "dropout": lambda mx, a, p: _dropout(mx, a[0], p["p"]),
    "residual_rmsnorm": lambda mx, a, p: mx.fast.rms_norm(a[0] + a[1], a[2], p["eps"]),
    "add_rms_norm": _sum_norm,
    "rmsnorm_residual": _sum_norm,
    "fused_add_rmsnorm": _sum_norm,
    "layernorm_residual": _sum_layer_norm,
    "fused_add_layernorm": _sum_layer_norm,
    "swiglu": lambda mx, a, p: (lambda g, u: _silu(mx, g) * u)(*_halves(mx, a[0])),
    "geglu": lambda mx, a, p: (lambda g, u: _gelu(mx, g) * u)(*_halves(mx, a[0])),
    "swiglu2": lambda mx, a, p: _silu(mx, a[0]) * a[1],
    "glm_fused_swiglu": lambda mx, a, p: _silu(mx, a[0]) * a[1],
    "geglu2": lambda mx, a, p: _gelu(mx, a[0]) * a[1],
    "bias_swiglu": lambda mx, a, p: (lambda g, u: _silu(mx, g) * u)(*_halves(mx, a[0] + a[1])),
    "bias_geglu": lambda mx, a, p: (lambda g, u: _gelu(mx, g) * u)(*_halves(mx, a[0] + a[1])),
    "logsumexp_lastdim": lambda mx, a, p: mx.logsumexp(a[0], axis=-1),
    "masked_softmax": lambda mx, a, p: _masked(mx, a[0], a[1]),
    "scale_mask_softmax": lambda mx, a, p: _masked(mx, a[0] * p["scale"], a[1]),
    "attention_tile_proto": lambda mx, a, p: a[0] @ a[1].T,
    "paged_attention": lambda mx, a, p: _paged(mx, a),
    "apply_rope": lambda mx, a, p: _rotate(mx, a[0], a[1], a[2]),
    "apply_rope_interleaved": lambda mx, a, p: _rotate_pairs(mx, a[0], a[1], a[2]),
    "apply_gqa_rope": lambda mx, a, p: _rotate(mx, a[0], a[1][:, None, :], a[2][:, None, :]),
    "sum_lastdim": lambda mx, a, p: a[0].sum(-1),
    "mean_lastdim": lambda mx, a, p: a[0].mean(-1),
    "max_lastdim": lambda mx, a, p: a[0].max(-1),
    "var_lastdim": lambda mx, a, p: mx.var(a[0], axis=-1),
    "std_lastdim": lambda mx, a, p: mx.sqrt(mx.var(a[0], axis=-1) + p["eps"]),
    "argmax_lastdim": lambda mx, a, p: mx.argmax(a[0], axis=-1),
    "topk_lastdim": lambda mx, a, p: mx.topk(a[0], int(p["k"]), axis=-1),
    "fused_linear_bias_silu": lambda mx, a, p: _silu(mx, a[0] @ a[1].T + a[2]),
    "fused_linear_bias_gelu": lambda mx, a, p: _gelu(mx, a[0] @ a[1].T + a[2]),
    "fused_linear_rmsnorm": lambda mx, a, p: mx.fast.rms_norm(a[0] @ a[1].T, a[2], p["eps"]),
    "softmax_cross_entropy": lambda mx, a, p: _cross_entropy(mx, a),
    "softmax_cross_entropy_grad": lambda mx, a, p: _cross_entropy_grad(mx, a),
    "dequantize_int8": lambda mx, a, p: a[0].astype(mx.float32) * a[1],
    "dequantize_silu_int8": lambda mx, a, p: _silu(mx, a[0].astype(mx.float32) * a[1]),
    "dequantize_blockwise": lambda mx, a, p: _blockwise(mx, a, int(p["block_size"])),
    "dequantize_fp8": lambda mx, a, p: mx.from_fp8(a[0], mx.float32) * a[1],
    "dequantize_affine_packed": _dequantize,
    "dequantize_affine_packed_silu": lambda mx, a, p: _silu(mx, _dequantize(mx, a, p)),
    "dequantize_affine_packed_gelu": lambda mx, a, p: _gelu(mx, _dequantize(mx, a, p)),
    "fused_quantized_swiglu_gemv": lambda mx, a, p: _silu(mx, _qmm(mx, a[0], a[1:4], p)) * _qmm(mx, a[0], a[4:7], p),
    "fused_quantized_swiglu_gemv_progressive": lambda mx, a, p: _silu(mx, _qmm(mx, a[0], a[1:4], p)) * _qmm(mx, a[0], a[4:7], p),
    "pack_bits": lambda mx, a, p: (a[0].reshape(-1, 8).astype(mx.uint8) * mx.array([1, 2, 4, 8, 16, 32, 64, 128], mx.uint8)).sum(-1),
    "unpack_bits": lambda mx, a, p: mx.bitwise_and(mx.right_shift(a[0][:, None], mx.arange(8, dtype=mx.uint8)), 1).reshape(-1),
    "moe_dispatch": lambda mx, a, p: a[0][mx.argsort(a[1].reshape(-1)) // a[1].shape[-1]],
    "gather_mmk_combine": lambda mx, a, p: _mmk(mx, a),
    "gather_qmm_combine": lambda mx, a, p: _mmk(mx, a),
    "gather_qmmk_combine_quantized": _qmmk,
    "gather_qmm_combine_quantized": _qmmk,
    "rope_and_cache_update": lambda mx, a, p: _rope_update(mx, a),
    "paged_rope_and_cache_update": lambda mx, a, p: _rope_update_paged(mx, a),
    "rope_concat_qk_decode": lambda mx, a, p: _rope_concat(mx, a, a[4][int(p["offset"])], a[5][int(p["offset"])]),
    "rope_concat_qk_decode_pos": lambda mx, a, p: _rope_concat(mx, a, a[4], a[5]),
    "dequantize_int4": lambda mx, a, p: _int4(mx, a),
    "dequantize_nf4": lambda mx, a, p: mx.array(_NF4)[_nibbles(mx, a[0])] * a[1],
    "dequantize_affine_packed_hi2": lambda mx, a, p: _dequantize(mx, [a[0] & 0xCCCCCCCC, *a[1:]], p),
    "dequantize_affine_packed_lo2_delta": lambda mx, a, p: _dequantize(mx, [a[0] & 0x33333333, a[1], mx.zeros_like(a[1])], p),
    "fused_swiglu_quant": lambda mx, a, p: _swiglu_quant(mx, a, int(p["block_size"])),
    "resize_bilinear": lambda mx, a, p: _bilinear(mx, a[0], int(p["height"]), int(p["width"])),
    "skv_fused_project_quantize": lambda mx, a, p: _project_quantize(mx, a, int(p["bits"]), int(p["group_size"])),
    "skv_fused_dequantize_unproject": lambda mx, a, p: _unproject(mx, a, p),
    "skv_compressed_attention": lambda mx, a, p: _compressed_attention(mx, a, p),
    "ttt_linear_decode": lambda mx, a, p: _ttt(mx, a),
    "ttt_linear": lambda mx, a, p: _ttt_layer(mx, *a, heads=int(p["heads"]), base=p["base_lr"]),
    "scaled_dot_product_attention": _attention,
    "depthwise_conv_3x3": lambda mx, a, p: _depthwise(mx, a),
    "fused_gather_add": lambda mx, a, p: a[0][a[1]] + a[2],
    "fused_scatter_add": lambda mx, a, p: mx.zeros((int(p["rows"]), *a[1].shape[1:])).at[a[0]].add(a[1]),
    "cumsum_lastdim": lambda mx, a, p: mx.cumsum(a[0], axis=-1),
    "cumsum_grad": lambda mx, a, p: mx.cumsum(a[0], axis=-1, reverse=True),
    "adamw_step": _adamw,
    "fused_recurrent_step": lambda mx, a, p: a[0] + a[3] * _silu(mx, mx.fast.rms_norm(a[0], a[1], p["eps"])) * a[2],
    "depth_gate_sigmoid": lambda mx, a, p: mx.sigmoid(a[0]) * p["k_max"],
    "grpo_advantage_norm": lambda mx, a, p: _standardize(mx, a[0], p["eps"]),
    "silu_mul_residual": lambda mx, a, p: _silu(mx, a[0]) * a[1] + a[2],
    "top2_gating_softmax": lambda mx, a, p: _topk_gating(mx, a[0], 2),
    "topk_gating_softmax": lambda mx, a, p: _topk_gating(mx, a[0], int(p["k"])),
    "router_argpartition_logits_topk": lambda mx, a, p: _topk_gating(mx, a[0], int(p["k"])),
    "glm_topk_gating": lambda mx, a, p: _topk_gating(mx, a[0], int(p["k"])),
    "deepseek_router_topk_sigmoid": lambda mx, a, p: _deepseek(mx, a, int(p["k"])),
    **{
        name: lambda mx, a, p: _combine(mx, a)
        for name in ["moe_combine", "moe_combine_no_fma", "moe_combine_exact", "moe_combine_fp32", "moe_combine_fp32_no_fma"]
    },
    "glm_moe_combine": lambda mx, a, p: _combine(mx, a),
    "gather_qmm_swiglu": lambda mx, a, p: _gated(mx, a[0], a, a[8], p, a[7]),
    "fused_swiglu_gather_qmv": lambda mx, a, p: _gated(mx, a[0][:, None, None], a, a[7], p),
}


# ---- NumPy: the plain expression ----


def _np_sigmoid(np, x):
    return 1 / (1 + np.exp(-x))


def _np_softmax(np, x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _np_rms(np, x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps)) * w


def _np_layer(np, x, w, b, eps):
    m = x.mean(-1, keepdims=True)
    d = x - m
    return d / np.sqrt((d * d).mean(-1, keepdims=True) + np.float32(eps)) * w + b


def _np_gelu(np, x):
    return np.float32(0.5) * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)))


NUMPY = {
    "exp": lambda np, a, p: np.exp(a[0]),
    "log": lambda np, a, p: np.log(np.abs(a[0])),
    "tanh": lambda np, a, p: np.tanh(a[0]),
    "sigmoid": lambda np, a, p: _np_sigmoid(np, a[0]),
    "relu": lambda np, a, p: np.maximum(a[0], 0),
    "relu2": lambda np, a, p: np.square(np.maximum(a[0], 0)),
    "silu": lambda np, a, p: a[0] * _np_sigmoid(np, a[0]),
    "gelu_tanh": lambda np, a, p: _np_gelu(np, a[0]),
    "softplus": lambda np, a, p: np.logaddexp(a[0], np.float32(0)),
    "mish": lambda np, a, p: a[0] * np.tanh(np.logaddexp(a[0], np.float32(0))),
    "elu": lambda np, a, p: np.where(a[0] > 0, a[0], np.expm1(a[0])),
    "add": lambda np, a, p: a[0] + a[1],
    "mul": lambda np, a, p: a[0] * a[1],
    "silu_mul": lambda np, a, p: a[0] * _np_sigmoid(np, a[0]) * a[1],
    "add_bias": lambda np, a, p: a[0] + a[1],
    "bias_silu": lambda np, a, p: (a[0] + a[1]) * _np_sigmoid(np, a[0] + a[1]),
    "bias_gelu_tanh": lambda np, a, p: _np_gelu(np, a[0] + a[1]),
    "softmax_lastdim": lambda np, a, p: _np_softmax(np, a[0]),
    "rmsnorm": lambda np, a, p: _np_rms(np, a[0], a[1], p["eps"]),
    "rms_norm_no_weight": lambda np, a, p: _np_rms(np, a[0], np.float32(1), p["eps"]),
    "layernorm": lambda np, a, p: _np_layer(np, a[0], a[1], a[2], p["eps"]),
    "residual_rmsnorm": lambda np, a, p: _np_rms(np, a[0] + a[1], a[2], p["eps"]),
    "swiglu2": lambda np, a, p: a[0] * _np_sigmoid(np, a[0]) * a[1],
    "geglu2": lambda np, a, p: _np_gelu(np, a[0]) * a[1],
    "sum_lastdim": lambda np, a, p: a[0].sum(-1),
    "mean_lastdim": lambda np, a, p: a[0].mean(-1),
    "max_lastdim": lambda np, a, p: a[0].max(-1),
    "var_lastdim": lambda np, a, p: a[0].var(-1),
    "argmax_lastdim": lambda np, a, p: a[0].argmax(-1),
    "fused_linear_bias_silu": lambda np, a, p: (lambda y: y * _np_sigmoid(np, y))(a[0] @ a[1].T + a[2]),
    "cumsum_lastdim": lambda np, a, p: np.cumsum(a[0], axis=-1),
    "cumsum_grad": lambda np, a, p: np.cumsum(a[0][..., ::-1], axis=-1)[..., ::-1],
    "fused_gather_add": lambda np, a, p: a[0][a[1]] + a[2],
    "moe_combine": lambda np, a, p: (a[0] * a[1][..., None]).sum(-2),
    "pack_bits": lambda np, a, p: np.packbits(a[0], bitorder="little"),
    "unpack_bits": lambda np, a, p: np.unpackbits(a[0], bitorder="little"),
    "grpo_advantage_norm": lambda np, a, p: _np_standardize(np, a[0], p["eps"]),
}


# ---- whether the values agree ----
# MLX's results beside ours: the largest difference, relative to the largest magnitude of a result (of at least 1), is at most TOLERANCE,
# or that of LOOSER. Rows of another order of the same values are sorted first.

TOLERANCE = 2e-5
LOOSER = {}

# In float16 and bfloat16 what is allowed is two roundings of the result (beside_mlx.py, UNIT), or as many as here. Both of these round each
# product and each sum to the dtype, as their rows of the catalog say: that is what makes them those kernels.
UNITS = {"moe_combine_exact": 4, "glm_moe_combine": 4}

# What is compared where results are not alike as they stand; a text says why nothing is.
_RANDOM = "the dropped elements are chosen by another generator"
_SORTED = lambda results: [r if r.ndim == 0 else __import__("numpy").sort(r, axis=-1) for r in results[:1]]
COMPARE = {
    "dropout": _RANDOM,
    "layer_norm_dropout": _RANDOM,
    "rms_norm_dropout": _RANDOM,
    **{
        name: _SORTED
        for name in [
            "topk_lastdim",
            "top2_gating_softmax",
            "topk_gating_softmax",
            "router_argpartition_logits_topk",
            "glm_topk_gating",
            "deepseek_router_topk_sigmoid",
        ]
    },
}
