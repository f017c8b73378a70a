#!/usr/bin/env python3
"""Writes tests/data/random_cases.json: random numbers as MLX (on the CPU) makes them from keys.

Needs the package mlx[cpu]. Arrays are {"t": dtype, "s": shape, "x": bytes in hex}. "tol" is an error that is allowed,
of the value or of 1 if that is larger; without it the bits must agree.
"""
import json
import pathlib

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
SHAPES = [(), (1,), (2,), (5,), (3, 7), (0, 4), (130,)]
FLOATS = [mx.float32, mx.float16, mx.bfloat16]
TOLERANCE = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1.6e-2}
rng = np.random.default_rng(8)
cases = []


def name(dtype):
    return str(dtype).replace("mlx.core.", "").replace("bool_", "bool")


def pack(a):
    raw = np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a).reshape(a.shape)
    return {"t": name(a.dtype), "s": list(a.shape), "x": np.ascontiguousarray(raw).tobytes().hex()}


def case(op, seed, out, inputs=(), tol=0, **args):
    cases.append({"op": op, "seed": seed, "in": [pack(a) for a in inputs], "out": pack(out), "args": args, "tol": tol})


for seed in (0, 1, 7, (1 << 40) + 12345):
    key = mx.random.key(seed)
    case("key", seed, key)
    for n in (1, 2, 3, 6):
        case("split", seed, mx.random.split(key, n), count=n)
    case("split2", seed, mx.stack(mx.random.split(key)))
    for shape in SHAPES:
        for dtype in FLOATS:
            case("uniform", seed, mx.random.uniform(shape=shape, dtype=dtype, key=key))
        low, high = mx.array(-1.7), mx.array(3.3)
        case("uniform", seed, mx.random.uniform(low, high, shape=shape, key=key), (low, high))
        case("bernoulli", seed, mx.random.bernoulli(mx.array(0.3), shape, key=key), (mx.array(0.3),))
        for dtype, tol in ((mx.float32, 2e-6), (mx.bfloat16, 0)):
            case("gumbel", seed, mx.random.gumbel(shape, dtype, key=key), tol=tol)
    low, high = mx.array([0.0, -3.0, 5.0]).astype(mx.bfloat16), mx.array([1.0, 4.0, 5.5]).astype(mx.bfloat16)
    case("uniform", seed, mx.random.uniform(low, high, shape=(4, 3), dtype=mx.bfloat16, key=key), (low, high))
    for dtype in (mx.int32, mx.uint8, mx.int64):
        low, high = mx.array([-7, 0, 3]).astype(mx.int32), mx.array([5, 100, 4]).astype(mx.int32)
        low = mx.abs(low) if dtype == mx.uint8 else low
        high = high + 20
        case("randint", seed, mx.random.randint(low, high, (6, 3), dtype, key=key), (low, high))
    for n in (1, 2, 9, 40):
        case("permutation", seed, mx.random.permutation(n, key=key))
    for dtype in FLOATS:
        tol = TOLERANCE[dtype]
        for shape in ((), (5,), (4, 3), (0, 4), (130,)):
            case("normal", seed, mx.random.normal(shape, dtype, key=key), tol=tol)
            case("laplace", seed, mx.random.laplace(shape, dtype, key=key), tol=tol, loc=0, scale=1)
        loc, scale = mx.array([0.5, -3.0, 2.0]), mx.array([[1.0], [0.1], [7.0], [2.0]])
        case("normal", seed, mx.random.normal((4, 3), dtype, loc, scale, key=key), (loc, scale), tol=tol)
        case("laplace", seed, mx.random.laplace((4, 3), dtype, 0.5, 3.0, key=key), tol=tol, loc=0.5, scale=3)
        low, high = mx.array([-1.0, 0.0, -2.5]), mx.array([[0.5], [3.0], [1.0], [2.0]])
        case("truncated_normal", seed, mx.random.truncated_normal(low, high, (4, 3), dtype, key=key), (low, high), tol=tol)
        logits = mx.array(rng.standard_normal((3, 1, 6)) * 2).astype(dtype)
        for axis in (-1, 0, 1):
            case("categorical", seed, mx.random.categorical(logits, axis, key=key), (logits,), axis=axis)
            case("categorical_many", seed, mx.random.categorical(logits, axis, num_samples=7, key=key), (logits,), axis=axis, count=7)
        case("categorical", seed, mx.random.categorical(logits, shape=(2, 3, 5), key=key), (logits,), axis=-1, shaped=1)
        case("categorical", seed, mx.random.categorical(logits, 0, shape=(4, 6), key=key), (logits,), axis=0, shaped=1)
    for axis in (0, 1, -1):
        a = mx.array(rng.integers(0, 100, (4, 5, 3)).astype(np.int32))
        case("permutation_of", seed, mx.random.permutation(a, axis, key=key), (a,), axis=axis)
    p = mx.array([0.0, 1.0, 0.5, 0.01])
    case("bernoulli", seed, mx.random.bernoulli(p, (9, 4), key=key), (p,))

for seed in (3, 19):
    key = mx.random.key(seed)
    mean, means = mx.array([1.0, -2.0, 0.5]), mx.array([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    cov = mx.array([[2.0, 0.3, -0.5], [0.3, 1.0, 0.2], [-0.5, 0.2, 4.0]])
    covs = mx.stack([cov, mx.eye(3), mx.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])])[:, None]
    for m, c, shape in ((mean, cov, []), (mean, cov, [7]), (means, cov, [3, 2]), (means, covs, []), (means, covs, [2, 3, 2]),
                        (mx.array([3.0]), mx.array([[4.0]]), [5])):
        case("multivariate_normal", seed, mx.random.multivariate_normal(m, c, shape, key=key), (m, c), tol=1e-5)

target = pathlib.Path(__file__).resolve().parent.parent / "tests/data/random_cases.json"
lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
target.write_text('{"cases":[\n' + lines + "\n]}\n")
print(f"{target}: {len(cases)} cases, {target.stat().st_size} bytes")
