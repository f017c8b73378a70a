#!/usr/bin/env python3
"""Writes tests/data/array_cases.json: inputs and results of array operations as computed by MLX (on the CPU) and NumPy.

Needs the packages mlx[cpu] and numpy. Arrays are {"t": dtype, "s": shape, "z": bytes in base64}. "tol" is a relative error that is allowed,
of "floor" if that is larger than the result; without it the bits must agree (any NaN equals any other).
"""
import base64
import json
import pathlib
import random

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(3)
pick = random.Random(3)

DTYPES = [mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, mx.float16, mx.bfloat16, mx.float32]
FLOATS = DTYPES[9:]
INTS = DTYPES[1:9]
TOLERANCE = {mx.float32: 2e-6, mx.float16: 2e-3, mx.bfloat16: 1e-2}
cases = []


def name(dtype):
    return str(dtype).replace("mlx.core.", "").replace("bool_", "bool")


def pack(a):
    dtype = name(a.dtype)
    raw = np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a)
    if a.dtype == mx.bfloat16 and a.ndim == 0:
        raw = raw.reshape(())
    return {"t": dtype, "s": list(a.shape), "z": base64.b64encode(np.ascontiguousarray(raw).tobytes()).decode()}


def sample(dtype, shape, special=True, scale=4.0):
    n = int(np.prod(shape))
    if dtype == mx.bool_:
        return mx.array(rng.integers(0, 2, shape).astype(bool))
    if dtype in INTS:
        t = np.dtype(name(dtype))
        info = np.iinfo(t)
        x = rng.integers(info.min, info.max, n, dtype=t, endpoint=True)
        x[rng.random(n) < 0.5] = rng.integers(0, 4, 1)[0]
        if special and n > 4:
            x[:4] = [info.min, info.max, 0, 1]
            rng.shuffle(x)
        return mx.array(x.reshape(shape))
    x = (rng.standard_normal(n) * scale).astype(np.float32)
    if special and n > 8:
        x[:8] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.0]
        rng.shuffle(x)
    return mx.array(x.reshape(shape)).astype(dtype)


def case(op, inputs, out, args=None, tol=None, floor=0):
    mx.eval(out)
    c = {"op": op, "in": [pack(a) for a in inputs], "out": pack(out)}
    if args is not None:
        c["args"] = args
    if tol:
        c["tol"] = tol
        c["floor"] = float(np.max(floor, initial=0))
    cases.append(c)


def binary_cases():
    arithmetic = {"add": mx.add, "subtract": mx.subtract, "multiply": mx.multiply, "divide": mx.divide, "maximum": mx.maximum,
                  "minimum": mx.minimum}
    compare = {"equal": mx.equal, "not_equal": mx.not_equal, "less": mx.less, "less_equal": mx.less_equal, "greater": mx.greater,
               "greater_equal": mx.greater_equal}
    for op, fn in {**arithmetic, **compare}.items():
        for dtype in DTYPES:
            a, b = sample(dtype, (19,)), sample(dtype, (19,))
            case(op, [a, b], fn(a, b))
    for a_type in DTYPES:
        for b_type in DTYPES:
            a, b = sample(a_type, (3, 1), False), sample(b_type, (1, 2), False)
            case("add", [a, b], mx.add(a, b))
    shapes = [((), ()), ((1,), ()), ((0,), (1,)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((5, 1), (1, 7)), ((1, 1, 1), (2, 3, 4)),
              ((2, 0, 3), (1, 3)), ((7, 1, 1, 2), (3, 1, 2)), ((1,) * 8, (2,)), ((17, 33), (17, 1)), ((1, 33), (9, 33))]
    for s, t in shapes:
        for dtype in (mx.float32, mx.bfloat16, mx.int16):
            a, b = sample(dtype, s), sample(dtype, t)
            case("multiply", [a, b], mx.multiply(a, b))
            case("less", [b, a], mx.less(b, a))
    for dtype in DTYPES:
        for condition in (mx.bool_, mx.float32, mx.int8):
            c = sample(condition, (5, 1))
            a, b = sample(dtype, (1, 6)), sample(pick.choice(DTYPES), (5, 6))
            case("where", [c, a, b], mx.where(c, a, b))


def unary_cases():
    for dtype in DTYPES:
        a = sample(dtype, (29,))
        if dtype != mx.bool_:
            case("negative", [a], mx.negative(a))
        case("abs", [a], mx.abs(a))
        # By float64 from the values themselves: MLX has its own error here.
        x = np.array(a.astype(mx.float32)).astype(np.float64)
        with np.errstate(all="ignore"):
            sigmoid = 1 / (1 + np.exp(-x))
            results = {"exp": np.exp(x), "log": np.log(x), "sqrt": np.sqrt(x), "rsqrt": 1 / np.sqrt(x), "tanh": np.tanh(x),
                       "sigmoid": sigmoid, "silu": np.where(x == -np.inf, np.nan, x * sigmoid)}
            to = dtype if dtype in FLOATS else mx.float32
            for op, y in results.items():
                case(op, [a], mx.array(y.astype(np.float32)).astype(to), tol=TOLERANCE[to])
        for to in DTYPES:
            x = a
            if dtype in FLOATS and to in INTS:  # out of range is undefined in MLX
                low = -100 if name(to).startswith("i") else 0
                x = mx.clip(mx.nan_to_num(a), low, 100)
            case("astype", [x], x.astype(to), {"dtype": name(to)})


def reduction_cases():
    shapes = [((7,), 0), ((1,), 0), ((5, 3), 0), ((5, 3), 1), ((4, 1, 6), 1), ((2, 67), 0), ((2, 3, 66), 1), ((67, 2), -1), ((0, 3), 1),
              ((2, 0), 0), ((3, 2, 5), -3)]
    for shape, axis in shapes:
        for dtype in DTYPES:
            if shape not in ((7,), (5, 3)) and dtype not in (mx.float32, mx.bfloat16, mx.int8, mx.uint64):
                continue
            for keep in (pick.random() < 0.5,):
                args = {"axis": axis, "keepdims": keep}
                plain = sample(dtype, shape, False)
                total = mx.sum(plain, axis, keepdims=keep)
                x = np.array(plain.astype(mx.float32) if dtype in FLOATS else plain).astype(np.float64)
                to = dtype if dtype in FLOATS else mx.float32
                if dtype in FLOATS:
                    total = mx.array(x.sum(axis, keepdims=keep).astype(np.float32)).astype(dtype)
                    case("sum", [plain], total, args, TOLERANCE[dtype], np.abs(x).sum(axis))
                else:
                    case("sum", [plain], total, args)
                mean = mx.array(x.mean(axis, keepdims=keep).astype(np.float32)).astype(to)
                case("mean", [plain], mean, args, TOLERANCE[to], np.abs(x).mean(axis))
                if shape[axis] == 0:
                    continue
                # NaN in every third sample only; MLX gives a zero the sign of whichever it met, ours is always +0.
                a = sample(dtype, shape, pick.random() < 0.3)
                if dtype in FLOATS:
                    a = mx.where(a == 0, mx.zeros_like(a), a)
                case("max", [a], mx.max(a, axis, keepdims=keep), args)
                case("min", [a], mx.min(a, axis, keepdims=keep), args)
                ties = sample(dtype, shape, False, 1.0)
                if dtype in FLOATS:
                    ties = mx.round(ties)
                if ties.size:
                    case("argmax", [ties], mx.argmax(ties, axis, keepdims=keep), args)
    for dtype in FLOATS:
        nan, inf = float("nan"), float("inf")
        for x in ([1, nan, 3, 3], [nan, 3, nan], [-0.0, 0.0], [0.0, -0.0], [-inf, -inf, -inf], [2, inf]):
            a = mx.array(x).astype(dtype)
            case("argmax", [a], mx.array(int(np.argmax(np.array(x, np.float32))), mx.uint32), {"axis": 0, "keepdims": False})
    for shape in ((1,), (5,), (3, 17), (2, 2, 100), (4, 0), (0, 4), (3, 1)):
        for dtype in (*FLOATS, mx.int32):
            a = sample(dtype, shape, False) if dtype != mx.int32 else mx.array(rng.integers(-9, 9, shape).astype(np.int32))
            to = dtype if dtype in FLOATS else mx.float32
            x = np.array(a.astype(mx.float32)).astype(np.float64)
            if x.size:
                x = np.exp(x - x.max(-1, keepdims=True))
                x /= x.sum(-1, keepdims=True)
            case("softmax", [a], mx.array(x.astype(np.float32)).astype(to), tol=TOLERANCE[to])


def view_chain(length):
    """A random chain of views of an int32 or int8 array: steps and the result."""
    rank = pick.randint(1, 4)
    x = np.arange(0)
    shape = [pick.choice([1, 2, 3, 4, 6] if rank < 4 else [1, 2, 3]) for _ in range(rank)]
    base = np.arange(int(np.prod(shape)), dtype=pick.choice([np.int32, np.int8, np.int16, np.int64])).reshape(shape)
    x = base
    steps = []
    while len(steps) < length:
        kind = pick.choice(["transpose", "slice", "reshape", "broadcast_to", "expand_dims", "squeeze", "contiguous"])
        if kind == "transpose":
            axes = list(range(x.ndim))
            pick.shuffle(axes)
            steps.append([kind, axes])
            x = x.transpose(axes)
        elif kind == "slice":
            start = [pick.randint(-n - 1, n + 1) for n in x.shape]
            stop = [pick.randint(-n - 2, n + 2) for n in x.shape]
            step = [pick.choice([1, 1, 2, -1, -2]) for n in x.shape]
            y = x[tuple(slice(a, b, c) for a, b, c in zip(start, stop, step))]
            if y.size == 0 and pick.random() < 0.9:
                continue
            steps.append([kind, start, stop, step])
            x = y
        elif kind == "reshape":
            flat = [d for d in range(1, x.size + 1) if x.size and x.size % d == 0]
            if not flat:
                continue
            d = pick.choice(flat)
            shape = pick.choice([[-1], [d, x.size // d], [x.size // d, 1, d], [d, -1]])
            steps.append([kind, shape])
            x = x.reshape(shape)
        elif kind == "broadcast_to":
            if x.ndim > 4 or x.size > 60:
                continue
            shape = [pick.randint(1, 3) if n == 1 else n for n in x.shape]
            if pick.random() < 0.5:
                shape = [pick.randint(1, 2)] + shape
            steps.append([kind, shape])
            x = np.broadcast_to(x, shape)
        elif kind == "expand_dims":
            if x.ndim > 5:
                continue
            axis = pick.randint(-x.ndim - 1, x.ndim)
            steps.append([kind, axis])
            x = np.expand_dims(x, axis)
        elif kind == "squeeze":
            ones = [i for i, n in enumerate(x.shape) if n == 1]
            if not ones:
                continue
            axis = pick.choice(ones)
            steps.append([kind, axis])
            x = np.squeeze(x, axis)
        else:
            steps.append([kind])
    case("views", [mx.array(base)], mx.array(np.array(x.tolist(), x.dtype).reshape(x.shape)), {"steps": steps})


def data_cases():
    for _ in range(60):
        view_chain(pick.randint(1, 7))
    for dtype in DTYPES:
        a, b, c = sample(dtype, (2, 3)), sample(pick.choice(DTYPES), (2, 1)), sample(dtype, (2, 4))
        case("concatenate", [a, b, c], mx.concatenate([a, b, c], 1), {"axis": 1})
        d = sample(dtype, (5, 2, 3))
        for index in INTS:
            i = mx.array(rng.integers(0, 5, (4,))).astype(index)
            case("take", [d, i], mx.take(d, i, 0))
        i = mx.array(rng.integers(0, 5, (2, 3))).astype(mx.int32)
        case("take", [d, i], mx.take(d, i, 0))
    many = [sample(mx.bfloat16, (2, pick.randint(0, 3), 2)) for _ in range(45)]
    case("concatenate", many, mx.concatenate(many, 1), {"axis": -2})
    ranges = [(0, 5, 1, "int32"), (5, 0, -2, "int64"), (0, 1, 0.1, "float32"), (3, 3, 1, "uint8"), (-2, 2, 0.5, "bfloat16"),
              (0, 4, 3, "float16"), (1, 0, 1, "float32"), (0, 300, 1, "uint16")]
    for start, stop, step, t in ranges:
        x = start + np.arange(len(np.arange(start, stop, step, np.float64))) * np.float64(step)
        y = mx.array(x.astype(np.float32)).astype(mx.bfloat16) if t == "bfloat16" else mx.array(x.astype(t))
        case("arange", [], y, {"start": start, "stop": stop, "step": step, "dtype": t})


def matmul_cases():
    shapes = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((1, 1), (1, 1)), ((5, 7), (7, 3)), ((2, 5, 7), (7, 3)),
              ((2, 1, 4, 3), (5, 3, 2)), ((0, 3), (3, 2)), ((2, 0), (0, 2)), ((17, 40), (40, 33))]
    for s, t in shapes:
        for a_type, b_type in [(d, d) for d in FLOATS] + [(mx.float16, mx.bfloat16), (mx.bfloat16, mx.int8)]:
            if len(s) > 1 and s[0] == 17 and a_type != b_type:
                continue
            a, b = sample(a_type, s, False, 1.0), sample(b_type, t, False, 1.0)
            to = mx.result_type(a, b)
            x, y = (np.array(v.astype(to).astype(mx.float32)).astype(np.float64) for v in (a, b))
            z = mx.array(np.asarray(np.matmul(x, y), np.float32)).astype(to)
            case("matmul", [a, b], z, None, TOLERANCE[to], np.matmul(np.abs(x), np.abs(y)))


binary_cases()
unary_cases()
reduction_cases()
data_cases()
matmul_cases()
table = [[name(mx.result_type(a, b)) for b in DTYPES] for a in DTYPES]
path = pathlib.Path(__file__).parent.parent / "tests" / "data" / "array_cases.json"
path.parent.mkdir(exist_ok=True)
with open(path, "w") as f:
    f.write('{"promotion": ' + json.dumps([name(t) for t in DTYPES]) + ',\n"table": ' + json.dumps(table) + ',\n"cases": [\n')
    f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
    f.write("\n]}\n")
print(len(cases), "cases,", path.stat().st_size, "bytes")
