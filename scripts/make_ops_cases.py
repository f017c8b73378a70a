#!/usr/bin/env python3
"""Writes tests/data/ops_*_cases.json, one file a group: inputs and results of the operations of zmlx/ops.h as computed by MLX (on the
CPU) and NumPy.

Needs the packages mlx[cpu] and numpy. Arrays are {"t": dtype, "s": shape, "x": bytes in hex}. "tol" is a relative error that is allowed,
of "floor" if that is larger than the result; without it the values must agree exactly (any NaN equals any other, and a zero its negative).
"view" on an input: it is made by transposing the stored array, so that the operation sees strides.
"""
import json
import pathlib

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(5)

DTYPES = [mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, mx.float16, mx.bfloat16, mx.float32]
FLOATS = DTYPES[9:]
INTS = DTYPES[1:9]
TOLERANCE = {mx.float32: 3e-6, mx.float16: 2e-3, mx.bfloat16: 1.6e-2}
cases = []


def name(dtype):
    return str(dtype).replace("mlx.core.", "").replace("bool_", "bool")


def pack(a, view=False):
    if view and a.ndim > 1:
        return {**pack(mx.contiguous(a.T)), "view": True}
    raw = np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a)
    raw = raw.reshape(a.shape)
    return {"t": name(a.dtype), "s": list(a.shape), "x": np.ascontiguousarray(raw).tobytes().hex()}


def sample(dtype, shape, special=True, scale=4.0):
    n = int(np.prod(shape))
    if dtype == mx.bool_:
        return mx.array(rng.integers(0, 2, shape).astype(bool))
    if dtype in INTS:
        t = np.dtype(name(dtype))
        info = np.iinfo(t)
        x = rng.integers(info.min, info.max, n, dtype=t, endpoint=True)
        x[rng.random(n) < 0.5] = rng.integers(0, 4, 1)[0]
        return mx.array(x.reshape(shape))
    x = (rng.standard_normal(n) * scale).astype(np.float32)
    x[rng.random(n) < 0.25] = 1.5
    if special and n > 8:
        x[:8] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, np.nan]
        rng.shuffle(x)
    return mx.array(x.reshape(shape)).astype(dtype)


def case(op, inputs, out, args=None, tol=None, floor=0, view=False):
    out = [out] if isinstance(out, mx.array) else list(out)
    mx.eval(out)
    c = {"op": op, "in": [pack(a, view) for a in inputs], "out": [pack(a) for a in out], "args": args or {}}
    if tol:
        c["tol"] = tol
        c["floor"] = float(np.max(floor, initial=0))
    cases.append(c)


def cumulative_cases():
    shapes = [((0,), 0), ((1,), 0), ((7,), 0), ((3, 5), 1), ((5, 3), 0), ((3, 0), 0), ((1, 65, 2), 1), ((70,), 0)]
    for shape, axis in shapes:
        for op in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"):
            for reverse in (False, True):
                for inclusive in (True, False):
                    args = {"axis": axis, "reverse": reverse, "inclusive": inclusive}
                    some = DTYPES if shape in ((7,),) else [mx.float32, mx.int16] if np.prod(shape) < 1000 else [mx.bfloat16]
                    for dtype in some:
                        if op in ("cummax", "cummin") and dtype == mx.bool_ or op == "logcumsumexp" and dtype not in FLOATS:
                            continue
                        a = sample(dtype, shape, special=op in ("cummax", "cummin"), scale=1.2)
                        if op in ("cummax", "cummin") or dtype not in FLOATS:
                            case(op, [a], getattr(mx, op)(a, axis, reverse=reverse, inclusive=inclusive), args, view=True)
                            continue
                        x = np.array(a.astype(mx.float32)).astype(np.float64)
                        x = np.flip(x, axis) if reverse else x
                        y = {"cumsum": np.cumsum, "cumprod": np.cumprod, "logcumsumexp": np.logaddexp.accumulate}[op](x, axis)
                        magnitude = np.abs(np.cumsum(np.abs(x), axis)).max(initial=0) if op == "cumsum" else 0 if op == "cumprod" else 1
                        if not inclusive and shape[axis]:
                            first = {"cumsum": 0, "cumprod": 1, "logcumsumexp": -np.inf}[op]
                            y = np.roll(y, 1, axis)
                            y[(slice(None),) * axis + (0,)] = first
                        y = np.flip(y, axis) if reverse else y
                        tol = TOLERANCE[dtype] * (4 if op == "cumprod" else 1)
                        case(op, [a], mx.array(y.astype(np.float32)).astype(dtype), args, tol, magnitude, view=True)


def stable(a, axis, inverse=False):
    """Indices of a stable sort with NaN last (falling: NaN first)."""
    x = np.array(a.astype(mx.float32)) if a.dtype in FLOATS else np.array(a)
    if not inverse:
        return np.argsort(x, axis=axis, kind="stable")
    ranks = np.zeros(x.shape, np.int64)  # dense ranks, so that falling order can be stable too
    for at in np.ndindex(*[n for i, n in enumerate(x.shape) if i != axis % x.ndim]):
        at = list(at)
        at.insert(axis % x.ndim, slice(None))
        at = tuple(at)
        ranks[at] = np.unique(x[at], return_inverse=True)[1]
    return np.argsort(-ranks, axis=axis, kind="stable")


def sort_cases():
    shapes = [((0,), 0), ((1,), 0), ((7,), 0), ((33,), 0), ((3, 5), 1), ((5, 3), 0), ((0, 3), 1), ((2, 5, 3), 1)]
    for shape, axis in shapes:
        for dtype in DTYPES if shape == (33,) else [mx.float32, mx.int32, mx.uint8, mx.float16]:
            a = sample(dtype, shape)
            order = stable(a, axis)
            args = {"axis": axis}
            index = mx.array(order.astype(np.uint32))
            case("argsort", [a], index, args, view=True)
            case("sort", [a], mx.take_along_axis(a, index, axis) if a.size else a, args, view=True)
            n = shape[axis]
            for k in sorted({0, min(1, n), n // 2, n}):
                down = mx.array(stable(a, axis, True).astype(np.uint32))
                part = mx.array(np.take(np.array(down), np.arange(k), axis))
                values = mx.take_along_axis(a, part, axis) if part.size else mx.zeros(part.shape, a.dtype)
                case("topk", [a], [values, part], {"axis": axis, "k": k})
    for dtype in DTYPES:
        s = mx.sort(sample(dtype, (21,), special=False))
        v = sample(dtype, (3, 6), special=False)
        v = mx.concatenate([v, mx.broadcast_to(s[:6], (1, 6))])
        for right in (False, True):
            case("searchsorted", [s, v], mx.searchsorted(s, v, side="right" if right else "left"), {"right": right}, view=False)
    case("searchsorted", [mx.zeros((0,)), mx.ones((3,))], mx.zeros((3,), mx.uint32), {"right": False})


def index_cases():
    for dtype in DTYPES:
        a = sample(dtype, (2, 5, 3))
        i = mx.array(rng.integers(-5, 5, (2, 3)).astype(np.int32))
        j = mx.array(rng.integers(0, 3, (3,)).astype(np.uint8))
        case("gather", [a, i], mx.take(a, i, 1), {"axes": [1]}, view=True)
        case("gather", [a, i, j], a[:, i, j], {"axes": [1, 2]})
        k = mx.array(rng.integers(-2, 2, (2, 1)).astype(np.int64))
        case("gather", [a, k, j], a[k, :, j], {"axes": [0, 2]}, view=True)
        t = mx.array(rng.integers(-5, 5, (2, 7, 1)).astype(np.int16))
        wide = mx.broadcast_to(t, (2, 7, 3))
        case("take_along_axis", [a, t], mx.take_along_axis(a, wide, 1), {"axis": 1})
        v = sample(dtype, (2, 7, 3))
        x = np.array(a.astype(mx.float32)) if dtype == mx.bfloat16 else np.array(a)
        w = np.array(v.astype(mx.float32)) if dtype == mx.bfloat16 else np.array(v)
        for o in range(2):  # the last of duplicates stays
            for m in range(7):
                for c in range(3):
                    x[o, int(wide[o, m, c].item()), c] = w[o, m, c]
        case("put_along_axis", [a, t, v], mx.array(x).astype(dtype), {"axis": 1})
    for dtype in [mx.float32, mx.int32, mx.float16, mx.bfloat16, mx.uint8, mx.int64]:
        for mode in ("set", "add", "prod", "max", "min"):
            a = sample(dtype, (2, 5, 3), special=False, scale=1)
            i = mx.array(rng.integers(-5, 5, (2, 3)).astype(np.int32))
            u = sample(dtype, (2, 2, 3, 3), special=False, scale=1)
            k = mx.array(rng.integers(-2, 2, (2, 1)).astype(np.int64))
            j = mx.array(rng.integers(0, 3, (3,)).astype(np.uint8))
            for axes, index, at in (([1], [i], (slice(None), i)), ([0, 2], [k, j], (k, slice(None), j))):
                update = u if axes == [1] else sample(dtype, (2, 3, 5), special=False, scale=1)
                work = np.float64 if dtype in FLOATS else np.dtype(name(dtype))
                x = np.array(a.astype(mx.float32) if dtype in FLOATS else a).astype(work)
                w = np.array(update.astype(mx.float32) if dtype in FLOATS else update).astype(work)
                where = tuple(np.array(q) if isinstance(q, mx.array) else q for q in at)
                with np.errstate(all="ignore"):
                    if mode == "set":
                        x[where] = w
                    else:
                        {"add": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[mode].at(x, where, w)
                y = mx.array(x.astype(np.float32) if dtype in FLOATS else x).astype(dtype)
                tol = TOLERANCE[dtype] if dtype in FLOATS and mode in ("add", "prod") else None
                case("scatter", [a, update, *index], y, {"axes": axes, "mode": mode}, tol, 8 if mode == "add" else 0, view=True)
    for dtype in (mx.float32, mx.uint8, mx.int64, mx.bfloat16):
        a = sample(dtype, (5, 6, 4))
        for start, stop, step in (([0, 1, 0], [5, 4, 4], [1, 1, 1]), ([4, -1, 0], [-9, 0, 4], [-2, -2, 3]),
                                  ([2, 0, 0], [2, 6, 4], [1, 1, 1])):
            at = tuple(slice(s, e if not (t < 0 and e < -5) else None, t) for s, e, t in zip(start, stop, step))
            x = np.array(a.astype(mx.float32))
            u = sample(dtype, x[at].shape[1:])
            x[at] = np.array(u.astype(mx.float32))
            if dtype == mx.int64:
                x = np.array(a)
                x[at] = np.array(u)
            case("slice_update", [a, u], mx.array(x).astype(dtype), {"start": start, "stop": stop, "step": step}, view=True)
        for start in ([1, 2], [4, 0], [0, 3]):
            s = mx.array(np.array(start, np.int32))
            case("slice_at", [a, s], mx.slice(a, mx.minimum(s, mx.array([2, 1])), (0, 2), (3, 6, 3)), {"axes": [0, 2], "size": [3, 6, 3]},
                 view=True)
            u = sample(dtype, (3, 2, 3))
            case("slice_update_at", [a, u, s], mx.slice_update(a, u, mx.minimum(s, mx.array([2, 1])), (0, 2)), {"axes": [0, 2]}, view=True)


def whole(dtype, shape):
    return sample(dtype, shape, special=False)


def raw(a):
    return np.array(a.astype(mx.float32)) if a.dtype in FLOATS else np.array(a)


def shape_cases():
    for dtype in (mx.float32, mx.uint8, mx.bfloat16, mx.int64):
        a = whole(dtype, (3, 4, 2))
        for x, y in ((0, 2), (-1, 1), (1, 1)):
            case("swapaxes", [a], mx.swapaxes(a, x, y), {"axes": [x, y]}, view=True)
            case("moveaxis", [a], mx.moveaxis(a, x, y), {"axes": [x, y]}, view=True)
        for x, y in ((0, -1), (0, 1), (1, 2), (1, 1)):
            case("flatten", [a], mx.flatten(a, x, y), {"axes": [x, y]}, view=True)
        case("unflatten", [a], mx.unflatten(a, 1, (2, -1)), {"axis": 1, "shape": [2, -1]}, view=True)
        case("expand_dims", [a], mx.expand_dims(a, (0, -1, 2)), {"axes": [0, -1, 2]}, view=True)
        for axes in ((0, 3), (-1,), None):
            b = whole(dtype, (1, 2, 3, 1))
            case("squeeze", [b], mx.squeeze(b, axes), {"axes": axes and list(axes)})
        for rank in (1, 2, 3):
            for b in (whole(dtype, ()), whole(dtype, (4,)), whole(dtype, (2, 3)), whole(dtype, (2, 1, 3, 1))):
                case("atleast", [b], [mx.atleast_1d, mx.atleast_2d, mx.atleast_3d][rank - 1](b), {"rank": rank})
        for axis in (0, 1, -1):
            b, c = whole(dtype, (3, 4)), whole(mx.float16 if dtype == mx.float32 else dtype, (3, 4))
            case("stack", [b, c, b], mx.stack([b, c, b], axis), {"axis": axis})
        case("unstack", [a], [a[:, :, 0], a[:, :, 1]], {"axis": -1}, view=True)
        case("split", [a], mx.split(a, 2, 1), {"parts": 2, "axis": 1}, view=True)
        case("split_at", [a], mx.split(a, [1, 3], 1), {"at": [1, 3], "axis": 1}, view=True)
        for times in ((2,), (1, 3, 2), (2, 1, 1, 3), (0, 1, 1), (1, 1, 1), ()):
            case("tile", [a], mx.tile(a, times), {"times": list(times)}, view=True)
        for axis in (0, 2):
            case("repeat", [a], mx.repeat(a, 3, axis), {"times": 3, "axis": axis}, view=True)
        for shifts, axes in (((1,), (0,)), ((-3, 5), (1, 2)), ((0,), (1,)), ((7,), (-2,))):
            case("roll", [a], mx.roll(a, shifts, axes), {"shifts": list(shifts), "axes": list(axes)}, view=True)
        for axes in (None, (0,), (1, -1)):
            x = np.ascontiguousarray(np.flip(raw(a), axes))
            case("flip", [a], mx.array(np.ascontiguousarray(x)).astype(dtype), {"axes": axes and list(axes)}, view=True)
        for mode in ("constant", "edge", "reflect", "symmetric"):
            for pads in (((1, 2), (0, 0), (1, 1)), ((0, 0), (3, 2), (0, 1)), ((0, 0), (0, 0), (0, 0))):
                x = np.pad(raw(a), pads, mode, **({"constant_values": 5} if mode == "constant" else {}))
                case("pad", [a], mx.array(np.ascontiguousarray(x)).astype(dtype),
                     {"pads": [n for pair in pads for n in pair], "mode": mode, "value": 5}, view=True)
        for k in (-3, -1, 0, 1, 2, 9):
            case("diagonal", [a], mx.diagonal(a, max(-3, min(k, 4)), 0, 1), {"k": max(-3, min(k, 4)), "axes": [0, 1]}, view=True)
            case("diagonal", [a], mx.diagonal(a, max(-2, min(k, 3)), 2, 0), {"k": max(-2, min(k, 3)), "axes": [2, 0]}, view=True)
            case("tril", [a], mx.tril(a, k), {"k": k}, view=True)
            case("triu", [a], mx.triu(a, k), {"k": k}, view=True)
            case("diag", [a[0, :, 0]], mx.diag(a[0, :, 0], k), {"k": k})
            case("eye", [], mx.eye(3, 4, k, dtype), {"n": 3, "m": 4, "k": k, "dtype": name(dtype)})
            case("tri", [], mx.tri(3, 4, k, dtype), {"n": 3, "m": 4, "k": k, "dtype": name(dtype)})
        case("diag", [a[:, :, 0]], mx.diag(a[:, :, 0], 1), {"k": 1})
        for sparse in (False, True):
            for xy in (False, True):
                b, c, d = whole(dtype, (2,)), whole(dtype, (3,)), whole(dtype, (1,))
                case("meshgrid", [b, c, d], mx.meshgrid(b, c, d, sparse=sparse, indexing="xy" if xy else "ij"),
                     {"sparse": sparse, "xy": xy})
        for shape, strides, offset in (((2, 3), (1, 2), 1), ((3, 3, 2), (4, -1, 0), 9), ((0, 2), (1, 1), 0), ((), (), 5)):
            flat = raw(a).reshape(-1)
            x = np.lib.stride_tricks.as_strided(flat[offset:], shape, [flat.itemsize * n for n in strides])
            case("as_strided", [a], mx.array(np.ascontiguousarray(x)).reshape(shape).astype(dtype),
                 {"shape": list(shape), "strides": list(strides), "offset": offset}, view=True)
        m = mx.array(rng.integers(0, 2, (4, 1)).astype(bool))
        case("masked_fill", [a, m], mx.where(m, mx.array(3).astype(dtype), a), {"value": 3}, view=True)
        case("diff", [a], mx.diff(a, 2, 1), {"n": 2, "axis": 1}, None if dtype != mx.bfloat16 else 1e-2, 8)
        b = whole(dtype, (2, 3))
        case("kron", [b, a[0]], mx.kron(b, a[0]), {}, 1e-2 if dtype == mx.bfloat16 else None)
        case("outer", [b, a[0]], mx.outer(b, a[0]), {})
    for n in (0, 1, 2, 7):
        case("linspace", [], mx.array(np.linspace(-1, 2.5, n).astype(np.float32)),
             {"start": -1, "stop": 2.5, "n": n, "dtype": "float32"}, 1e-7, 1)


def other_cases():
    for dtype in DTYPES:
        for n, size in ((0, 2), (1, 1), (12, 4), (12, 9), (40, 30), (5, 0)):
            a = mx.array(rng.integers(0, 2 if dtype == mx.bool_ else 6, n)).astype(dtype)
            if n == 40 and dtype in FLOATS:
                a = sample(dtype, (n,))
                a = mx.where(mx.isnan(a), mx.array(7).astype(dtype), a)
            if n:
                u = mx.unique(a, size, True, True, True, fill_value=mx.array(1).astype(dtype)) if size else None
                if size:
                    case("unique", [a], u, {"size": size, "fill": 1})
                    case("unique", [a], mx.unique(a, size, True, True, True), {"size": size})
    for dtype in DTYPES[1:]:
        a = sample(dtype, (3, 8))
        for to in DTYPES[1:]:
            raw_bytes = np.array(a.view(mx.uint8))
            case("view", [a], mx.array(raw_bytes).view(to), {"dtype": name(to)}, view=True)
    a, nan = mx.array([1.0, 2.0]), mx.array([1.0, float("nan")])
    for x, y, same in ((a, a, False), (a, nan, False), (nan, nan, False), (nan, nan, True), (a, mx.array([1, 2]), False),
                       (a, a[:1], False)):
        case("array_equal", [x, y], mx.array_equal(x, y, equal_nan=same), {"equal_nan": same})
    for n in (0, 1, 2, 5, 16):
        for op in ("bartlett", "blackman", "hamming", "hanning"):
            case(op, [], mx.array(getattr(np, op)(n).astype(np.float32)), {"n": n}, 1e-6, 1)


def reduce_cases():
    for shape, axes in (((3, 4, 5), None), ((3, 4, 5), (0, 2)), ((3, 4, 5), (1,)), ((3, 4, 5), (-1, 0)), ((2, 0, 3), (1,)),
                        ((2, 0, 3), (0,)),
                        ((), None), ((33, 3), (0,)), ((1, 1), (0, 1)), ((2, 3), ())):
        for dtype in DTYPES if shape == (3, 4, 5) and axes == (0, 2) else (mx.float32, mx.int16, mx.bool_):
            for keep in ((False,) if dtype in INTS else (True,)):
                a = whole(dtype, shape)
                args = {"axes": list(axes) if axes is not None else None, "keepdims": keep}
                x = np.array(a.astype(mx.float32)).astype(np.float64) if dtype in FLOATS else np.array(a)
                kw = {"axis": axes, "keepdims": keep}
                case("any", [a], mx.array(np.any(x != 0, **kw)), args, view=True)
                case("all", [a], mx.array(np.all(x != 0, **kw)), args, view=True)
                case("count_nonzero", [a], mx.array(np.count_nonzero(x, **kw)).astype(mx.int32), args, view=True)
                floats = dtype if dtype in FLOATS else mx.float32
                tol = TOLERANCE[floats]
                sums = mx.sum(mx.zeros((1,), dtype)).dtype
                size = np.abs(x.astype(np.float64)).sum()

                def put(op, y, to, tolerance=None, floor=0, **more):
                    y = np.asarray(y)
                    y = mx.array(y.astype(np.float32)).astype(to) if to in FLOATS else mx.array(y.astype(np.dtype(name(to))))
                    case(op, [a], y, {**args, **more}, tolerance, floor, view=True)

                with np.errstate(all="ignore"):
                    wide = x.astype(np.float64) if dtype in FLOATS else x.astype(np.dtype(name(sums)))
                    put("sum_axes", np.sum(wide, dtype=wide.dtype, **kw), sums, tol if dtype in FLOATS else None, size)
                    put("prod", np.prod(wide, dtype=wide.dtype, **kw), sums, 4 * tol if dtype in FLOATS else None)
                    if axes == () or 0 in [shape[i] for i in (axes if axes is not None else range(len(shape)))]:
                        continue
                    if dtype != mx.bool_:
                        put("max_axes", np.max(x, **kw), dtype)
                        put("min_axes", np.min(x, **kw), dtype)
                    y = x.astype(np.float64) if dtype not in INTS[4:] + INTS[:4] else x.astype(np.float32).astype(np.float64)
                    put("mean_axes", np.mean(y, **kw), floats, tol, np.abs(y).max(initial=0))
                    for ddof in (0, 1):
                        v = np.var(y, ddof=ddof, **kw)
                        if np.isfinite(v).all() and dtype not in (mx.uint64, mx.int64):  # squares beyond float32
                            put("var", v, floats, 4 * tol, np.abs(y).max(initial=0) ** 2 * 1e-3, ddof=ddof)
                            put("std", np.sqrt(v), floats, 4 * tol, np.abs(y).max(initial=0) * 1e-3, ddof=ddof)
                    m = np.max(y, axis=axes, keepdims=True)
                    e = np.log(np.sum(np.exp(y - m), **kw)) + (m if keep else np.squeeze(m, axes))
                    put("logsumexp", e, floats, tol, 1)
                    put("median", np.median(y, **kw), floats, tol, np.abs(y).max(initial=0))
                if len(shape) == 3 and axes == (1,):
                    case("argmin", [a], mx.array(np.argmin(x, 1, keepdims=keep).astype(np.uint32)), {"axis": 1, "keepdims": keep},
                         view=True)
    for dtype in DTYPES:
        a = sample(dtype, (2, 19))
        x = np.array(a.astype(mx.float32)) if dtype in FLOATS else np.array(a)
        case("argmin", [a], mx.array(np.argmin(x, 1).astype(np.uint32)), {"axis": 1, "keepdims": False}, view=True)
        case("argmin", [a], mx.array(np.argmin(x, 0).astype(np.uint32)), {"axis": 0, "keepdims": False}, view=True)


def einsum_cases():
    sizes = dict(zip("abcdefghijkl", (2, 3, 4, 5, 2, 3, 2, 2, 3, 4, 5, 2)))
    texts = ["ij,jk->ik", "ij,jk", "ijk->kji", "ii->i", "ii", "iij->j", "ij->", "i,j->ij", "i,i", "ij,ij->ij", "bij,bjk->bik",
             "ij,jk,kl->il", "abc,cd,be->ade", "a,b,c,d->abcd",
             "ab,bc,cd,de", "ijk,ilk->jl", " i j , j k -> k i ", "abc->", "ij,kl->", "iij,jk->ik",
             "...ij,...jk->...ik", "...i->...", "i...,i...->...", "ab...,b->a..."]
    for text in texts:
        for dtype in (mx.float32, mx.bfloat16, mx.int32):
            operands = []
            for k, term in enumerate(text.split("->")[0].split(",")):
                term = term.replace(" ", "")
                shape = []
                for part in term.replace("...", "."):
                    shape += [1, 4][k % 2:] if part == "." and k else [3, 4] if part == "." else [sizes[part]]
                operands.append(whole(dtype, tuple(shape)) if dtype in FLOATS else mx.array(rng.integers(-9, 9, shape).astype(np.int32)))
            x = [np.array(o.astype(mx.float32)).astype(np.float64) if dtype in FLOATS else np.array(o) for o in operands]
            y = np.asarray(np.einsum(text, *x))
            size = np.max(np.einsum(text, *[np.abs(o) for o in x]), initial=0)
            y = mx.array(y.astype(np.float32)).astype(dtype) if dtype in FLOATS else mx.array(y.astype(np.int32))
            case("einsum", operands, y, {"text": text}, {mx.float32: 3e-6, mx.bfloat16: 4e-2}.get(dtype), size)
    for axes in (([1], [0]), ([0, 1], [1, 0]), ([], []), ([-1], [1])):
        a, b = whole(mx.float32, (3, 4)), whole(mx.float32, (4, 3) if axes[0] != [-1] else (2, 4))
        y = np.tensordot(np.array(a).astype(np.float64), np.array(b).astype(np.float64), axes)
        case("tensordot", [a, b], mx.array(np.asarray(y).astype(np.float32)), {"a": axes[0], "b": axes[1]}, 3e-6, 100)
    a, b = whole(mx.float32, (2, 3, 4)), whole(mx.float32, (5, 4))
    case("inner", [a, b], mx.inner(a, b), {}, 1e-6, 50)
    case("vecdot", [a, b[:3]], mx.sum(a * b[:3], -1), {"axis": -1}, 1e-6, 50)
    case("trace", [a], mx.trace(a, 1, 1, 2), {"k": 1, "axes": [1, 2]}, 1e-6, 9, view=True)


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent.parent / "tests/data"
    for group in (cumulative_cases, sort_cases, index_cases, shape_cases, other_cases, reduce_cases, einsum_cases):
        cases.clear()
        group()
        path = folder / ("ops_" + group.__name__ + ".json")
        lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
        path.write_text('{"cases":[\n' + lines + "\n]}\n")
        print(path, path.stat().st_size, "bytes,", len(cases), "cases")
