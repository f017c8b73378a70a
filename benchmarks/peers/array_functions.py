"""The rows of benchmarks/arrays.c in MLX and NumPy: functions of (library, operands, parameters), used by beside_mlx.py --rows arrays."""


def _quantized(mx, a, p):
    return mx.quantized_matmul(*a, transpose=True, group_size=64, bits=4)


def _np_softmax(np, x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _np_scatter(np, a):
    y = a[0].copy()
    np.add.at(y, a[1], a[2])
    return y


def _np_topk(np, x, k):
    return np.partition(x, x.shape[-1] - k, axis=-1)[..., -k:]


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
    "einsum_mix": lambda m, a, p: m.einsum("bhqk,bkhd->bqhd", a[0], a[1]),
    "matmul_batched": lambda m, a, p: a[0] @ a[1],
    "matmul_64": lambda m, a, p: a[0] @ a[1],
    "matmul_column": lambda m, a, p: a[0] @ a[1],
    "matmul_narrow": lambda m, a, p: a[0] @ a[1],
    **{f"matmul_{rows}_float32": lambda m, a, p: a[0] @ a[1] for rows in [1, 2, 4, 16, 256, 1024]},
    **{f"matmul_turned_{rows}_float32": lambda m, a, p: a[0] @ a[1].T for rows in [1, 2, 4, 16, 256, 1024]},
}

_MLX = {
    **_BOTH,
    **{f"matmul_{rows}_bfloat16": lambda m, a, p: a[0] @ a[1] for rows in [1, 2, 4, 16, 256]},
    **{f"matmul_turned_{rows}_bfloat16": lambda m, a, p: a[0] @ a[1].T for rows in [1, 2, 4, 16, 256]},
    "small_softmax": lambda mx, a, p: mx.softmax(a[0], axis=-1),
    "topk_last": lambda mx, a, p: mx.topk(a[0], 40, axis=-1),
    "cumsum_reverse": lambda mx, a, p: mx.cumsum(a[0], axis=-1, reverse=True),
    "cummax_last": lambda mx, a, p: mx.cummax(a[0], axis=-1),
    "cummax_first": lambda mx, a, p: mx.cummax(a[0], axis=0),
    "transpose_copy": lambda mx, a, p: mx.contiguous(a[0].T),
    "heads_copy": lambda mx, a, p: mx.contiguous(a[0].transpose(0, 2, 1, 3)),
    "scatter_add": lambda mx, a, p: a[0].at[a[1]].add(a[2]),
    "conv1d": lambda mx, a, p: mx.conv1d(a[0], a[1], padding=2),
    "conv2d": lambda mx, a, p: mx.conv2d(a[0], a[1], padding=1),
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
    **_BOTH,
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
LOOSER = {
    "arrays.cumsum_long": 1e-3,
    **{name: 8e-3 for name in MLX if name.endswith("bfloat16")},
}


def _sorted(results):
    import numpy

    return [numpy.sort(results[0], axis=-1)]


COMPARE = {"arrays.partition_last": _sorted, "arrays.topk_last": _sorted}
