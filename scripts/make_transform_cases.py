#!/usr/bin/env python3
"""Writes tests/data/transform_cases.json: gradients, tangents, second derivatives and batches as computed by MLX (on the CPU).

Needs the packages mlx[cpu] and numpy. Functions are known by name here and in tests/test_transform_cases.c. Arrays are {"t": dtype,
"s": shape, "x": bytes in hex}. "tol" is a relative error that is allowed, of "floor" if that is larger than the value.
"""
import json
import pathlib

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(5)
cases = []
EQUAL = 1e-12  # equal numbers; zeros of either sign


def name(dtype):
    return str(dtype).replace("mlx.core.", "").replace("bool_", "bool")


def pack(a):
    mx.eval(a)
    raw = np.array(a.view(mx.uint16)) if a.dtype == mx.bfloat16 else np.array(a)
    return {"t": name(a.dtype), "s": list(a.shape), "x": np.ascontiguousarray(raw).tobytes().hex()}


def noise(*shape, dtype=mx.float32, low=-1.0, high=1.0):
    return mx.array(rng.uniform(low, high, shape).astype(np.float32)).astype(dtype)


def few(*shape, dtype=mx.float32):
    """Small whole numbers: many of them are equal."""
    return mx.array(rng.integers(-2, 3, shape).astype(np.float32)).astype(dtype)


def mlp(x, w, v):
    h = x @ w
    p = mx.softmax((h * mx.sigmoid(h)) @ v, axis=-1)
    return -mx.log(p[:, 0:1])


def layer_norm(x, w, b):
    c = x - mx.mean(x, axis=-1, keepdims=True)
    return c * mx.rsqrt(mx.mean(c * c, axis=-1, keepdims=True) + mx.array(1e-3, x.dtype)) * w + b


def attention(q, k, v):
    return mx.softmax((q @ mx.swapaxes(k, -1, -2)) * mx.array(0.5, q.dtype), axis=-1) @ v


FUNCTIONS = {
    "maximum": mx.maximum,
    "minimum": mx.minimum,
    "max": lambda x: mx.max(x, axis=1),
    "min": lambda x: mx.min(x, axis=0, keepdims=True),
    "abs": mx.abs,
    "where": lambda x, a, b: mx.where(x > 0, a, b),
    "take": lambda x, w: x[mx.array([3, 0, 3, 3, 1])] * w,
    "slices": lambda x, w: mx.concatenate([x[1:7:2, ::-1], x[0:3] * w], axis=0),
    "sums": lambda x: mx.sum(x, axis=1) * mx.mean(x, axis=0, keepdims=True),
    "broadcast": lambda a, b: (a[:, None] * b + mx.sqrt(mx.abs(a))[:, None]) / (b * b + mx.array(1, b.dtype)),
    "functions": lambda x: mx.exp(x) * mx.tanh(x) + mx.log(x) / mx.sqrt(x) - mx.rsqrt(x) * mx.sigmoid(x),
    "mlp": mlp,
    "rms_norm": lambda x, w: mx.fast.rms_norm(x, w, 1e-5),
    "layer_norm": layer_norm,
    "attention": attention,
    "product": lambda a, b: a * b,
}


def add(kind, fn, inputs, extra, outs, tol, floor):
    cases.append({"kind": kind, "fn": fn, "in": [pack(a) for a in inputs], "extra": [pack(a) for a in extra],
                  "out": [pack(a) for a in outs], "tol": tol, "floor": floor})


def gradients(fn, inputs, tol=EQUAL, floor=1.0, whole=False):
    y = FUNCTIONS[fn](*inputs)
    cotangent = few(*y.shape, dtype=y.dtype) if whole else noise(*y.shape, dtype=y.dtype)
    outs, grads = mx.vjp(FUNCTIONS[fn], inputs, [cotangent])
    add("vjp", fn, inputs, [cotangent], outs + grads, tol, floor)


def tangents(fn, inputs, tol=EQUAL, floor=1.0):
    along = [noise(*a.shape, dtype=a.dtype) for a in inputs]
    outs, pushed = mx.jvp(FUNCTIONS[fn], inputs, along)
    add("jvp", fn, inputs, along, outs + pushed, tol, floor)


def second(fn, inputs, tol, floor):
    """The gradient of the sum of the squares of the gradient."""
    def listed(g):
        return [g] if isinstance(g, mx.array) else list(g)

    def first(*a):
        grads = listed(mx.grad(lambda *b: mx.sum(FUNCTIONS[fn](*b)), argnums=list(range(len(a))))(*a))
        return sum((mx.sum(g * g) for g in grads[1:]), mx.sum(grads[0] * grads[0]))
    grads = mx.grad(first, argnums=list(range(len(inputs))))(*inputs)
    add("second", fn, inputs, [], listed(grads), tol, floor)


def batches(fn, inputs, axes, out_axis, tol=EQUAL, floor=1.0):
    y = mx.vmap(FUNCTIONS[fn], in_axes=tuple(axes), out_axes=out_axis)(*inputs)
    cases.append({"kind": "vmap", "fn": fn, "in": [pack(a) for a in inputs], "extra": [], "out": [pack(y)], "tol": tol, "floor": floor,
                  "axes": [127 if a is None else a for a in axes], "out_axis": out_axis})


LOOSE = {mx.float32: (3e-5, 0.1), mx.float16: (1e-2, 0.2), mx.bfloat16: (6e-2, 0.3)}
for dtype in (mx.float32, mx.float16, mx.bfloat16):
    loose = LOOSE[dtype]
    for fn in ("maximum", "minimum"):
        gradients(fn, [few(4, 5, dtype=dtype), few(4, 5, dtype=dtype)])
    gradients("max", [few(4, 5, dtype=dtype)], *((1e-6, 0.1) if dtype == mx.float32 else loose))
    gradients("min", [few(4, 5, dtype=dtype)], *((1e-6, 0.1) if dtype == mx.float32 else loose))
    gradients("abs", [few(4, 5, dtype=dtype)])
    gradients("where", [few(3, 4), noise(3, 4, dtype=dtype), noise(3, 4, dtype=dtype)])
    gradients("take", [few(5, 3, dtype=dtype), few(5, 3, dtype=dtype)], whole=True)
    gradients("slices", [few(8, 3, dtype=dtype), few(3, 3, dtype=dtype)], whole=True)
    gradients("sums", [noise(4, 4, dtype=dtype)], *loose)
    gradients("broadcast", [noise(3, dtype=dtype, low=0.5), noise(3, 4, dtype=dtype)], *loose)
    gradients("functions", [noise(3, 4, dtype=dtype, low=0.3, high=2)], *loose)
    gradients("mlp", [noise(3, 4, dtype=dtype), noise(4, 5, dtype=dtype), noise(5, 3, dtype=dtype)], *loose)
    gradients("rms_norm", [noise(3, 8, dtype=dtype), noise(8, dtype=dtype)], *loose)
    gradients("layer_norm", [noise(3, 8, dtype=dtype), noise(8, dtype=dtype), noise(8, dtype=dtype)], *loose)
    gradients("attention", [noise(2, 3, 4, dtype=dtype), noise(2, 5, 4, dtype=dtype), noise(2, 5, 3, dtype=dtype)], *loose)
gradients("product", [noise(3, 4, dtype=mx.bfloat16), noise(4)], 1e-2, 0.1)
for fn, inputs in (("functions", [noise(3, 4, low=0.3, high=2)]), ("mlp", [noise(3, 4), noise(4, 5), noise(5, 3)]),
                   ("layer_norm", [noise(3, 8), noise(8), noise(8)]), ("attention", [noise(2, 3, 4), noise(2, 5, 4), noise(2, 5, 3)]),
                   ("sums", [noise(4, 4)]), ("broadcast", [noise(3, low=0.5), noise(3, 4)]), ("take", [noise(5, 3), noise(5, 3)])):
    tangents(fn, inputs, 3e-5, 0.1)
    second(fn, inputs, 2e-4, 0.5)
batches("broadcast", [noise(2, 3, low=0.5), noise(3, 4)], [0, None], 1, 3e-6, 0.1)
batches("attention", [noise(3, 2, 4), noise(5, 4), noise(5, 3, 2)], [1, None, 2], 0, 1e-5, 0.1)
batches("mlp", [noise(3, 4), noise(2, 4, 5), noise(5, 3)], [None, 0, None], 2, 1e-5, 0.1)
batches("take", [noise(5, 3, 2), noise(5, 3)], [2, None], 0)
batches("slices", [noise(2, 8, 3), noise(3, 3, 2)], [0, 2], 1)
batches("max", [few(4, 2, 5)], [1], 0)

path = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "transform_cases.json"
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")
