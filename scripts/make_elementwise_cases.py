#!/usr/bin/env python3
"""Writes tests/data/elementwise_cases.json: inputs and results of elementwise operations as computed by MLX (on the CPU), or in float64
by NumPy and Python where MLX has an error of its own. The form is that of make_array_cases.py; "turn" says that operands are stored
transposed.

Needs the packages mlx[cpu] and numpy.
"""
import json
import math
import pathlib
import zlib

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(5)

DTYPES = [mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, mx.float16, mx.bfloat16, mx.float32]
FLOATS, INTS = DTYPES[9:], DTYPES[1:9]
TOLERANCE = {mx.float32: 1e-6, mx.float16: 1e-3, mx.bfloat16: 8e-3}
cases = []


def name(dtype):
    return str(dtype).replace("mlx.core.", "").replace("bool_", "bool")


def pack(a):
    raw = np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a)
    return {"t": name(a.dtype), "s": list(a.shape), "x": np.ascontiguousarray(raw).tobytes().hex()}


def sample(dtype, shape, low=None, high=None, special=True):
    n = int(np.prod(shape))
    if dtype == mx.bool_:
        return mx.array(rng.integers(0, 2, shape).astype(bool))
    if dtype in INTS:
        t = np.dtype(name(dtype))
        info = np.iinfo(t)
        if low is not None:
            return mx.array(rng.integers(max(low, info.min), min(high, info.max), n, endpoint=True).astype(t).reshape(shape))
        x = rng.integers(info.min, info.max, n, dtype=t, endpoint=True)
        x[rng.random(n) < 0.4] = rng.integers(1, 7, 1)[0]
        if n > 6:
            x[:4] = [info.min, info.max, 0, 1]
            rng.shuffle(x)
        return mx.array(x.reshape(shape))
    x = rng.uniform(low, high, n) if low is not None else rng.standard_normal(n) * 4
    x = x.astype(np.float32)
    if special and n > 9:
        x[:9] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.0, 0.5]
        rng.shuffle(x)
    return mx.array(x.reshape(shape)).astype(dtype)


def case(op, inputs, out, tol=None, floor=0, args=None):
    mx.eval(out)
    c = {"op": op, "in": [pack(a) for a in inputs], "out": pack(out)}
    if args:
        c["args"] = args
    if tol:
        c["tol"] = tol
        c["floor"] = float(floor)
    cases.append(c)


def wide(a):
    return np.array(a.astype(mx.float32)).astype(np.float64)


def erfinv(y):
    """By Newton steps on math.erf."""
    if math.isnan(y) or abs(y) > 1:
        return math.nan
    if abs(y) == 1:
        return math.copysign(math.inf, y)
    x = y * 0.886 if abs(y) < 0.7 else math.copysign(math.sqrt(-math.log((1 - abs(y)) / 2)), y)
    for _ in range(60):
        x -= (math.erf(x) - y) / (2 / math.sqrt(math.pi) * math.exp(-x * x))
    return x


FUNCTIONS = {
    "reciprocal": lambda x: 1 / x, "exp2": np.exp2, "expm1": np.expm1, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "arcsin": np.arcsin, "arccos": np.arccos, "arctan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "arcsinh": np.arcsinh, "arccosh": np.arccosh, "arctanh": np.arctanh, "erf": np.vectorize(math.erf, [float]),
    "erfinv": np.vectorize(erfinv, [float]), "softplus": lambda x: np.logaddexp(x, 0), "degrees": np.degrees, "radians": np.radians,
}
INSIDE = {"arcsin": (-1, 1), "arccos": (-1, 1), "arctanh": (-1, 1), "erfinv": (-0.999, 0.999), "arccosh": (1, 50)}


def function_cases():
    for op, f in FUNCTIONS.items():
        for dtype in DTYPES:
            to = dtype if dtype in FLOATS else mx.float32
            for shape in ((31,), (0, 2)) if dtype == mx.float32 else ((23,),):
                low, high = INSIDE.get(op, (None, None))
                a = sample(dtype, shape, low, high) if dtype in FLOATS else sample(dtype, shape)
                with np.errstate(all="ignore"):
                    y = f(wide(a)) if a.size else wide(a)
                case(op, [a], mx.array(np.asarray(y, np.float32)).astype(to), TOLERANCE[to], 1e-3 if op in ("sin", "cos", "tan") else 0)
    for dtype in FLOATS:
        a = sample(dtype, (5, 6))
        with np.errstate(all="ignore"):
            case("sin", [a.T], mx.array(np.sin(wide(a)).astype(np.float32)).astype(dtype), TOLERANCE[dtype], 1e-3, {"turn": True})


def exact_cases():
    whole = {"square": mx.square, "sign": mx.sign, "floor": mx.floor, "ceil": mx.ceil, "trunc": mx.trunc, "isnan": mx.isnan,
             "isinf": mx.isinf, "isfinite": mx.isfinite, "isneginf": mx.isneginf, "isposinf": mx.isposinf, "logical_not": mx.logical_not}
    for op, f in whole.items():
        for dtype in DTYPES:
            a = sample(dtype, (27,))
            y = f(a)
            if op in ("sign", "floor", "ceil", "trunc") and dtype in FLOATS:
                # Zeros keep their sign here, but those that sign gives.
                x = wide(a)
                with np.errstate(all="ignore"):
                    y = {"sign": lambda: np.where(np.isnan(x), 0, np.sign(x) + 0.0), "floor": lambda: np.floor(x),
                         "ceil": lambda: np.ceil(x), "trunc": lambda: np.trunc(x)}[op]()
                y = mx.array(y.astype(np.float32)).astype(dtype)
            case(op, [a], y)
    for dtype in DTYPES:
        for decimals in (0, 1, 2, -1):
            a = sample(dtype, (25,), -300, 300) if dtype != mx.bool_ else sample(dtype, (5,))
            y = mx.round(a, decimals)
            if decimals == 0 and dtype in FLOATS:
                y = mx.array(np.rint(wide(a)).astype(np.float32)).astype(dtype)
            case("round", [a], y, args={"decimals": decimals})
    for dtype in DTYPES[:9]:
        a, b = sample(dtype, (3, 7)), sample(dtype, (7,))
        case("bitwise_and", [a, b], mx.bitwise_and(a, b))
        case("bitwise_or", [a, b], mx.bitwise_or(a, b))
        case("bitwise_xor", [a, b], mx.bitwise_xor(a, b))
        case("bitwise_invert", [a], mx.bitwise_invert(a))
        count = sample(dtype, (3, 1), 0, 7)
        case("left_shift", [a, count], mx.left_shift(a, count))
        case("right_shift", [a, count], mx.right_shift(a, count))
    for a_type in DTYPES:
        b_type = DTYPES[rng.integers(0, len(DTYPES))]
        a, b = sample(a_type, (4, 3)), sample(b_type, (3,))
        case("logical_and", [a, b], mx.logical_and(a, b))
        case("logical_or", [a, b], mx.logical_or(a, b))
        case("logical_xor", [a, b], mx.logical_xor(a, b))


def pair_cases():
    for dtype in INTS + [mx.bool_]:
        a, b = sample(dtype, (29,)), sample(dtype, (29,))
        if dtype in INTS:  # division by zero is not defined in MLX, nor is the lowest number by -1
            b = mx.where(b == 0, mx.array(3, dtype), b)
            t = np.iinfo(np.dtype(name(dtype)))
            if t.min < 0:
                b = mx.where((a == t.min) & (b == -1), mx.array(5, dtype), b)
            case("remainder", [a, b], mx.remainder(a, b))
            case("floor_divide", [a, b], mx.floor_divide(a, b))
        base, exponent = sample(dtype, (25,), -5, 9), sample(dtype, (25,), 0, 11)
        case("power", [base, exponent], mx.power(base, exponent))
    case("power", [mx.array([1, -1, 2, 0]), mx.array([-1, -3, -1, 0])], mx.array([0, 0, 0, 1]))
    for op in ("remainder", "floor_divide"):
        z = mx.array([0, 5, -7], mx.int32)
        case(op, [z, mx.zeros_like(z)], mx.zeros_like(z))
    for dtype in FLOATS:
        for shape, other in (((31,), (31,)), ((3, 5), (5,)), ((0,), (1,)), ((), ())):
            a, b = sample(dtype, shape), sample(dtype, other)
            x, y = np.broadcast_arrays(wide(a), wide(b))
            with np.errstate(all="ignore"):
                r = np.fmod(x, y)
                r = np.where((r != 0) & ((r < 0) != (y < 0)), (r.astype(np.float32) + y.astype(np.float32)).astype(np.float64), r)
                q = np.floor((x.astype(np.float32) / y.astype(np.float32)))
                e = np.logaddexp(x, y)
                e = np.where(np.isnan(x) | np.isnan(y), np.nan, e)
            case("remainder", [a, b], mx.array(r.astype(np.float32)).astype(dtype))
            case("floor_divide", [a, b], mx.array(q.astype(np.float32)).astype(dtype))
            case("logaddexp", [a, b], mx.array(e.astype(np.float32)).astype(dtype), TOLERANCE[dtype], 1e-2)
            case("arctan2", [a, b], mx.array(np.arctan2(x, y).astype(np.float32)).astype(dtype), TOLERANCE[dtype])
            base = sample(dtype, shape, 0.1, 9, False)
            with np.errstate(all="ignore"):
                p = np.power(wide(base), wide(b))
                p16 = mx.array(p.astype(np.float32)).astype(dtype)
            case("power", [base, b], p16, 3 * TOLERANCE[dtype])
            whole = mx.round(sample(dtype, shape, -6, 6, False))
            with np.errstate(all="ignore"):
                p = mx.array(np.power(wide(a), wide(whole)).astype(np.float32)).astype(dtype) if shape == () or len(shape) == 1 else None
            if p is not None and whole.shape == a.shape:
                case("power", [a, whole], p, 3 * TOLERANCE[dtype])


def other_cases():
    for dtype in DTYPES:
        a = sample(dtype, (17,))
        low, high = mx.array(False), mx.array(True)
        if dtype != mx.bool_:
            low, high = sample(dtype, (), 1, 2, False), sample(dtype, (), 3, 5, False)
        case("clip", [a, low, high], mx.clip(a, low, high))
        case("nan_to_num", [a], mx.nan_to_num(a, 1.5 if dtype in FLOATS else 0))
        b = mx.where(sample(mx.bool_, (17,)), a, sample(dtype, (17,)))
        case("array_equal", [a, b], mx.array_equal(a, b))
        case("array_equal", [a, a], mx.array_equal(a, a, equal_nan=True), args={"equal_nan": True})
        # MLX takes the lowest integer for unlike itself, and differences of unsigned numbers wrap around there.
        a = sample(dtype, (17,), -100, 100) if dtype in INTS else a
        b = mx.where(sample(mx.bool_, (17,)), a, sample(dtype, (17,)))
        for nan in (False, True):
            near = a if name(dtype).startswith("uint") else b
            if dtype in FLOATS:
                near = b * (1 + 1e-6 * mx.array(rng.integers(0, 30, 17), mx.float32)).astype(dtype)
            case("isclose", [a, near], mx.isclose(a, near, equal_nan=nan), args={"equal_nan": nan})
            case("allclose", [a, a], mx.allclose(a, a, equal_nan=nan), args={"equal_nan": nan})
    a = sample(mx.float32, (2, 3))
    case("array_equal", [a, mx.reshape(a, (3, 2))], mx.array(False))
    case("allclose", [mx.zeros((0, 3)), mx.zeros((0, 3))], mx.array(True))


function_cases()
exact_cases()
pair_cases()
other_cases()
path = pathlib.Path(__file__).parent.parent / "tests" / "data" / "elementwise_cases.json"
with open(path, "w") as f:
    f.write('{"cases": [\n')
    f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
    f.write("\n]}\n")
print(len(cases), "cases,", path.stat().st_size, "bytes,", hex(zlib.crc32(path.read_bytes())))
