"""The rows of benchmarks/arrays.c in MLX and NumPy: functions of (library, operands, parameters), used by beside_mlx.py --rows arrays."""


def _quantized(mx, a, p):
    return mx.quantized_matmul(*a, transpose=True, group_size=64, bits=4)


def _added_norm(mx, a, p):
    h = a[0] + a[1]
    return mx.fast.rms_norm(h, a[2], 1e-5), h


def _np_added_norm(np, a, p):
    h = a[0] + a[1]
    return h / np.sqrt((h * h).mean(-1, keepdims=True) + np.float32(1e-5)) * a[2], h


def _np_softmax(np, x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _np_scatter(np, a):
    y = a[0].copy()
    np.add.at(y, a[1], a[2])
    return y


def _np_topk(np, x, k):
    return np.partition(x, x.shape[-1] - k, axis=-1)[..., -k:]


def _np_logsumexp(np, x, axis):
    m = x.max(axis, keepdims=True)
    return np.log(np.exp(x - m).sum(axis)) + m.squeeze(axis)


def _np_put(np, a):
    y = a[0].copy()
    np.put_along_axis(y, a[1], a[2], axis=-1)
    return y


def _np_update(np, a):
    y = a[0].copy()
    y[1:1025, 1:1025] = a[1]
    return y


def _mx_update(mx, a):
    return mx.slice_update(a[0], a[1], mx.array([1, 1]), [0, 1])


def _many(function, *names):
    return {name: function for name in names}


# For functions that both libraries spell alike.
_BOTH = {
    "small_add": lambda m, a, p: a[0] + a[1],
    "small_matmul": lambda m, a, p: a[0] @ a[1],
    "add": lambda m, a, p: a[0] + a[1],
    "where": lambda m, a, p: m.where(a[0], a[1], a[2]),
    "sort_last": lambda m, a, p: m.sort(a[0], axis=-1),
    "sort_first": lambda m, a, p: m.sort(a[0], axis=0),
    "argsort_last": lambda m, a, p: m.argsort(a[0], axis=-1),
    "partition_last": lambda m, a, p: m.partition(a[0], 8000, axis=-1),
    "searchsorted": lambda m, a, p: m.searchsorted(a[0], a[1]),
    "cumsum_last": lambda m, a, p: m.cumsum(a[0], axis=-1),
    "cumsum_long": lambda m, a, p: m.cumsum(a[0], axis=-1),
    "cumsum_first": lambda m, a, p: m.cumsum(a[0], axis=0),
    "sum_all": lambda m, a, p: a[0].sum(),
    "sum_last": lambda m, a, p: a[0].sum(-1),
    "sum_first": lambda m, a, p: a[0].sum(0),
    "sum_middle": lambda m, a, p: a[0].sum(1),
    "max_first": lambda m, a, p: a[0].max(0),
    "argmax_last": lambda m, a, p: m.argmax(a[0], axis=-1),
    "argmax_first": lambda m, a, p: m.argmax(a[0], axis=0),
    "concatenate_first": lambda m, a, p: m.concatenate([a[0], a[1]], axis=0),
    "concatenate_last": lambda m, a, p: m.concatenate([a[0], a[1]], axis=-1),
    "take_rows": lambda m, a, p: a[0][a[1]],
    "take_along_axis": lambda m, a, p: m.take_along_axis(a[0], a[1], axis=-1),
    "gather": lambda m, a, p: a[0][a[1], a[2]],
    "einsum_scores": lambda m, a, p: m.einsum("bqhd,bkhd->bhqk", a[0], a[1]),
    "einsum_all": lambda m, a, p: m.einsum("abcd,abcd->", a[0], a[1]),
    "einsum_first": lambda m, a, p: m.einsum("abcd,abcd->ad", a[0], a[1]),
    "inner": lambda m, a, p: m.inner(a[0], a[1]),
    "convolve": lambda m, a, p: m.convolve(a[0], a[1], mode="same"),
    "einsum_mix": lambda m, a, p: m.einsum("bhqk,bkhd->bqhd", a[0], a[1]),
    "matmul_batched": lambda m, a, p: a[0] @ a[1],
    "matmul_64": lambda m, a, p: a[0] @ a[1],
    "matmul_column": lambda m, a, p: a[0] @ a[1],
    "matmul_narrow": lambda m, a, p: a[0] @ a[1],
    **_many(lambda m, a, p: a[0].sum(-1), "sum_rows_4", "sum_rows_16", "sum_rows_33", "sum_rows_128"),
    **_many(lambda m, a, p: a[0].sum(1), "sum_middle_7", "sum_middle_3", "sum_middle_4_16"),
    "sum_turned": lambda m, a, p: a[0].T.sum(-1),
    "mean_rows_3": lambda m, a, p: a[0].mean(-1),
    **_many(lambda m, a, p: a[0].var(-1), "var_rows_16", "var_last"),
    "var_first": lambda m, a, p: a[0].var(0),
    "prod_rows_4": lambda m, a, p: a[0].prod(-1),
    "prod_first": lambda m, a, p: a[0].prod(0),
    "any_rows_4": lambda m, a, p: a[0].any(-1),
    **_many(lambda m, a, p: a[0].max(-1), "max_rows_4", "max_rows_33", "max_rows_128", "max_last", "max_rows_4_int32"),
    "min_rows_4": lambda m, a, p: a[0].min(-1),
    **_many(
        lambda m, a, p: m.argmax(a[0], axis=-1), "argmax_rows_4", "argmax_rows_33", "argmax_rows_128", "argmax_rows_10_int32"
    ),
    **_many(lambda m, a, p: m.argmin(a[0], axis=-1), "argmin_rows_4", "argmin_last"),
    "argmin_first": lambda m, a, p: m.argmin(a[0], axis=0),
    **_many(lambda m, a, p: m.cumsum(a[0], axis=-1), "cumsum_rows_4", "cumsum_rows_33"),
    **_many(lambda m, a, p: m.cumsum(a[0], axis=0), "cumsum_first_large", "cumsum_first_tall"),
    **_many(lambda m, a, p: m.cumprod(a[0], axis=-1), "cumprod_rows_4", "cumprod_last"),
    **_many(lambda m, a, p: m.sort(a[0], axis=-1), "sort_rows_8", "sort_rows_100", "sort_last_int32"),
    "argsort_rows_8": lambda m, a, p: m.argsort(a[0], axis=-1),
    "median_rows_9": lambda m, a, p: m.median(a[0], axis=-1),
    **_many(lambda m, a, p: m.tril(a[0]), "tril", "tril_batch"),
    "triu": lambda m, a, p: m.triu(a[0], k=1),
    **_many(lambda m, a, p: m.kron(a[0], a[1]), "kron", "kron_small"),
    "outer": lambda m, a, p: m.outer(a[0], a[1]),
    "trace": lambda m, a, p: m.trace(a[0]),
    **_many(
        lambda m, a, p: a[0] + a[1], "add_row", "add_column", "add_both", "add_short_rows", "add_short_columns", "add_middle", "add_int32"
    ),
    "add_turned": lambda m, a, p: a[0] + a[1].T,
    "less": lambda m, a, p: a[0] < a[1],
    "divide": lambda m, a, p: a[0] / a[1],
    "remainder": lambda m, a, p: m.remainder(a[0], a[1]),
    "floor_divide": lambda m, a, p: m.floor_divide(a[0], a[1]),
    "power": lambda m, a, p: m.power(a[0], a[1]),
    "exp": lambda m, a, p: m.exp(a[0]),
    "sin": lambda m, a, p: m.sin(a[0]),
    "sqrt": lambda m, a, p: m.sqrt(a[0]),
    "to_float16": lambda m, a, p: a[0].astype(m.float16),
    "to_int32": lambda m, a, p: a[0].astype(m.int32),
    **_many(lambda m, a, p: a[0].astype(m.float32), "from_float16", "from_int32"),
    "pad": lambda m, a, p: m.pad(a[0], 1),
    "tile": lambda m, a, p: m.tile(a[0], (2, 3)),
    "repeat_first": lambda m, a, p: m.repeat(a[0], 3, axis=0),
    "repeat_last": lambda m, a, p: m.repeat(a[0], 3, axis=-1),
    "roll_last": lambda m, a, p: m.roll(a[0], 5, axis=-1),
    "stack_first": lambda m, a, p: m.stack([a[0], a[1]], axis=0),
    "stack_last": lambda m, a, p: m.stack([a[0], a[1]], axis=-1),
    "concatenate_3": lambda m, a, p: m.concatenate([a[0], a[1]], axis=-1),
    "take_columns": lambda m, a, p: m.take(a[0], a[1], axis=1),
    **{f"matmul_{rows}_float32": lambda m, a, p: a[0] @ a[1] for rows in [1, 2, 4, 16, 256, 1024]},
    **{f"matmul_turned_{rows}_float32": lambda m, a, p: a[0] @ a[1].T for rows in [1, 2, 4, 16, 256, 1024]},
}

_MLX = {
    **_BOTH,
    **_many(lambda mx, a, p: a[0].sum(-1), "sum_rows_16_bfloat16", "sum_last_bfloat16", "sum_rows_16_int32", "sum_last_int32"),
    **_many(lambda mx, a, p: a[0].sum(0), "sum_first_bfloat16", "sum_first_int32"),
    "max_rows_4_float16": lambda mx, a, p: a[0].max(-1),
    **_many(lambda mx, a, p: mx.logsumexp(a[0], axis=-1), "logsumexp_rows_10", "logsumexp_last"),
    "logsumexp_first": lambda mx, a, p: mx.logsumexp(a[0], axis=0),
    **_many(
        lambda mx, a, p: mx.softmax(a[0], axis=-1),
        "softmax_rows_4",
        "softmax_rows_10",
        "softmax_rows_33",
        "softmax_rows_10_bfloat16",
        "softmax_last",
    ),
    **_many(lambda mx, a, p: mx.cumsum(a[0], axis=-1), "cumsum_rows_4_int32", "cumsum_rows_10_bfloat16"),
    "cummax_rows_4": lambda mx, a, p: mx.cummax(a[0], axis=-1),
    **_many(lambda mx, a, p: mx.logcumsumexp(a[0], axis=-1), "logcumsumexp_rows_4", "logcumsumexp_last"),
    **_many(lambda mx, a, p: a[0] + a[1], "add_bfloat16", "add_float16"),
    "erf": lambda mx, a, p: mx.erf(a[0]),
    "to_bfloat16": lambda mx, a, p: a[0].astype(mx.bfloat16),
    "from_bfloat16": lambda mx, a, p: a[0].astype(mx.float32),
    "every_second": lambda mx, a, p: mx.contiguous(a[0][::2, ::2]),
    "flip_last": lambda mx, a, p: mx.contiguous(a[0][:, ::-1]),
    "transpose_short": lambda mx, a, p: mx.contiguous(a[0].T),
    "transpose_bfloat16": lambda mx, a, p: mx.contiguous(a[0].T),
    "put_along_axis": lambda mx, a, p: mx.put_along_axis(a[0], a[1], a[2], axis=-1),
    "slice_update": lambda mx, a, p: _mx_update(mx, a),
    **{f"matmul_{rows}_bfloat16": lambda m, a, p: a[0] @ a[1] for rows in [1, 2, 4, 16, 256]},
    **{f"matmul_turned_{rows}_bfloat16": lambda m, a, p: a[0] @ a[1].T for rows in [1, 2, 4, 16, 256]},
    "small_softmax": lambda mx, a, p: mx.softmax(a[0], axis=-1),
    "author_norm_64x1024": _added_norm,
    "author_norm_2048x2048": _added_norm,
    "topk_last": lambda mx, a, p: mx.topk(a[0], 40, axis=-1),
    "cumsum_reverse": lambda mx, a, p: mx.cumsum(a[0], axis=-1, reverse=True),
    "cummax_last": lambda mx, a, p: mx.cummax(a[0], axis=-1),
    "cummax_first": lambda mx, a, p: mx.cummax(a[0], axis=0),
    "transpose_copy": lambda mx, a, p: mx.contiguous(a[0].T),
    "heads_copy": lambda mx, a, p: mx.contiguous(a[0].transpose(0, 2, 1, 3)),
    "scatter_add": lambda mx, a, p: a[0].at[a[1]].add(a[2]),
    "conv1d": lambda mx, a, p: mx.conv1d(a[0], a[1], padding=2),
    "conv2d": lambda mx, a, p: mx.conv2d(a[0], a[1], padding=1),
    "conv2d_first_layer": lambda mx, a, p: mx.conv2d(a[0], a[1], padding=1),
    "conv2d_one_channel": lambda mx, a, p: mx.conv2d(a[0], a[1], padding=1),
    "conv2d_one_filter": lambda mx, a, p: mx.conv2d(a[0], a[1], padding=1),
    "random_normal": lambda mx, a, p: mx.random.normal((1024, 1024), key=mx.random.key(7)),
    "random_uniform": lambda mx, a, p: mx.random.uniform(shape=(1024, 1024), key=mx.random.key(7)),
    "quantize": lambda mx, a, p: mx.quantize(a[0], group_size=64, bits=4),
    "dequantize": lambda mx, a, p: mx.dequantize(*a, group_size=64, bits=4),
    "quantized_matmul_1": _quantized,
    "quantized_matmul_64": _quantized,
    "gather_mm": lambda mx, a, p: mx.gather_mm(a[0], a[1], rhs_indices=a[2]),
    "gather_qmm": lambda mx, a, p: mx.gather_qmm(*a[:4], rhs_indices=a[4], transpose=True, group_size=64, bits=4),
}

_NUMPY = {
    "author_norm_64x1024": _np_added_norm,
    "author_norm_2048x2048": _np_added_norm,
    **_BOTH,
    **_many(lambda np, a, p: a[0].sum(-1, dtype=np.int32), "sum_rows_16_int32", "sum_last_int32"),
    "sum_first_int32": lambda np, a, p: a[0].sum(0, dtype=np.int32),
    **_many(lambda np, a, p: _np_logsumexp(np, a[0], -1), "logsumexp_rows_10", "logsumexp_last"),
    "logsumexp_first": lambda np, a, p: _np_logsumexp(np, a[0], 0),
    **_many(lambda np, a, p: _np_softmax(np, a[0]), "softmax_rows_4", "softmax_rows_10", "softmax_rows_33", "softmax_last"),
    "cumsum_rows_4_int32": lambda np, a, p: np.cumsum(a[0], axis=-1, dtype=np.int32),
    "cummax_rows_4": lambda np, a, p: np.maximum.accumulate(a[0], axis=-1),
    **_many(lambda np, a, p: np.logaddexp.accumulate(a[0], axis=-1), "logcumsumexp_rows_4", "logcumsumexp_last"),
    "every_second": lambda np, a, p: np.ascontiguousarray(a[0][::2, ::2]),
    "flip_last": lambda np, a, p: np.ascontiguousarray(a[0][:, ::-1]),
    "transpose_short": lambda np, a, p: np.ascontiguousarray(a[0].T),
    "put_along_axis": lambda np, a, p: _np_put(np, a),
    "slice_update": lambda np, a, p: _np_update(np, a),
    "small_softmax": lambda np, a, p: _np_softmax(np, a[0]),
    "topk_last": lambda np, a, p: _np_topk(np, a[0], 40),
    "cumsum_reverse": lambda np, a, p: np.cumsum(a[0][..., ::-1], axis=-1)[..., ::-1],
    "cummax_last": lambda np, a, p: np.maximum.accumulate(a[0], axis=-1),
    "cummax_first": lambda np, a, p: np.maximum.accumulate(a[0], axis=0),
    "transpose_copy": lambda np, a, p: np.ascontiguousarray(a[0].T),
    "heads_copy": lambda np, a, p: np.ascontiguousarray(a[0].transpose(0, 2, 1, 3)),
    "scatter_add": lambda np, a, p: _np_scatter(np, a),
    "random_normal": lambda np, a, p: np.random.Generator(np.random.Philox(7)).standard_normal((1024, 1024), dtype=np.float32),
    "random_uniform": lambda np, a, p: np.random.Generator(np.random.Philox(7)).random((1024, 1024), dtype=np.float32),
}

MLX = {f"arrays.{name}": f for name, f in _MLX.items()}
NUMPY = {f"arrays.{name}": f for name, f in _NUMPY.items()}


# As in peer_functions.py. Sums of 4 million numbers one after another, as MLX adds them, drift; so do bfloat16 results by a place.
TOLERANCE = 2e-5
UNITS = {}
LOOSER = {
    "arrays.cumsum_long": 1e-3,
    "arrays.einsum_all": 1e-4,  # MLX adds a million products one after another
    "arrays.inner": 1e-4,
    **{name: 8e-3 for name in MLX if name.endswith("bfloat16")},
}


def _sorted(results):
    import numpy

    return [numpy.sort(results[0], axis=-1)]


COMPARE = {"arrays.partition_last": _sorted, "arrays.topk_last": _sorted}
