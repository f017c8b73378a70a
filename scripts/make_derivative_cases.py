#!/usr/bin/env python3
"""Writes tests/data/derivative_cases.json: values, first and second derivatives of functions of the kernel language by MLX on the CPU.

Needs the packages mlx[cpu] and numpy. Points are ordinary numbers and those where a function has an end, a kink or a pole. "first" are the
gradients of the sum by each operand, "second" those of the sum of these. Where MLX's own rule gives NaN for a slope that exists, the point
is left out here (`without`), so that what is stored is what both have to give.
"""
import json
import pathlib

import mlx.core as mx
import mlx.nn as nn
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(11)
INF = float("inf")
WIDE = [-30.0, -3.5, -2.0, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 1.75, 3.0, 20.0, INF, -INF]
UNIT = [-0.9, -0.5, -0.25, 0.0, 0.125, 0.5, 0.75, 0.95]
ABOVE = [0.0625, 0.5, 1.0, 2.0, 9.0, 100.0]
ONE = {
    "abs(a)": (mx.abs, WIDE), "sign(a)": (mx.sign, WIDE), "sqrt(a)": (mx.sqrt, ABOVE + [0.0, INF]), "rsqrt(a)": (mx.rsqrt, ABOVE),
    "exp(a)": (mx.exp, WIDE), "expm1(a)": (mx.expm1, WIDE), "log(a)": (mx.log, ABOVE + [0.0, INF]), "log2(a)": (mx.log2, ABOVE),
    "log10(a)": (mx.log10, ABOVE), "log1p(a)": (mx.log1p, ABOVE + [-0.5, 0.0]),
    "sin(a)": (mx.sin, WIDE[:12]), "cos(a)": (mx.cos, WIDE[:12]),
    "tan(a)": (mx.tan, UNIT), "asin(a)": (mx.arcsin, UNIT), "acos(a)": (mx.arccos, UNIT), "atan(a)": (mx.arctan, WIDE[:12]),
    "sinh(a)": (mx.sinh, UNIT + [3.0]), "cosh(a)": (mx.cosh, UNIT + [3.0]), "tanh(a)": (mx.tanh, WIDE),
    "asinh(a)": (mx.arcsinh, WIDE[:12]),
    "acosh(a)": (mx.arccosh, [1.125, 1.5, 2.0, 9.0]), "atanh(a)": (mx.arctanh, UNIT), "erf(a)": (mx.erf, WIDE),
    "erfinv(a)": (mx.erfinv, UNIT),
    "sigmoid(a)": (mx.sigmoid, WIDE[:12]), "silu(a)": (nn.silu, WIDE[:12]), "softplus(a)": (nn.softplus, WIDE[:12]),
    "log_sigmoid(a)": (nn.log_sigmoid, WIDE[:12]), "gelu(a)": (nn.gelu, WIDE[:12]), "gelu_tanh(a)": (nn.gelu_approx, WIDE[:12]),
    "mish(a)": (nn.mish, WIDE[:12]), "relu(a)": (nn.relu, WIDE), "square(a)": (mx.square, WIDE[:12]),
    "reciprocal(a)": (mx.reciprocal, ABOVE),
    "floor(a)": (mx.floor, WIDE[:12]), "ceil(a)": (mx.ceil, WIDE[:12]), "round(a)": (mx.round, WIDE[:12]),
    "clamp(a, -1.0f, 1.5f)": (lambda a: mx.clip(a, -1.0, 1.5), WIDE),
    "a > 0.5f ? a * a : sin(a)": (lambda a: mx.where(a > 0.5, a * a, mx.sin(a)), WIDE[:12]),
    "pow(a, 3)": (lambda a: mx.power(a, 3.0), [-2.0, -0.5, 0.5, 1.0, 3.0]),
    "a * tanh(log(1 + exp(a)))": (lambda a: a * mx.tanh(mx.log(1 + mx.exp(a))), UNIT + [3.0, -4.0]),
}
TWO = {
    "a + b": mx.add, "a * b": mx.multiply, "a / b": mx.divide, "min(a, b)": mx.minimum, "max(a, b)": mx.maximum, "atan2(a, b)": mx.arctan2,
    "pow(a, b)": mx.power, "logaddexp(a, b)": mx.logaddexp, "a % b": mx.remainder,
    "a > b ? a * b : b - a": lambda a, b: mx.where(a > b, a * b, b - a),
}
PAIRS = [(0.5, 2.0), (2.0, 0.5), (1.0, 1.0), (3.0, 3.0), (1.5, 2.25), (0.25, 1.0), (7.0, 2.0), (0.75, 0.5)]
cases = []


def bits(a):
    mx.eval(a)
    return np.array(a, dtype=np.float32).tobytes().hex()


def add(source, f, operands):
    operands = [mx.array(np.array(x, dtype=np.float32)) for x in operands]
    by = list(range(len(operands)))

    def listed(g):
        return [g] if isinstance(g, mx.array) else list(g)

    first = listed(mx.grad(lambda *a: mx.sum(f(*a)), argnums=by)(*operands))
    slopes = mx.grad(lambda *b: mx.sum(f(*b)), argnums=by)
    second = listed(mx.grad(lambda *a: sum(mx.sum(g) for g in listed(slopes(*a))), argnums=by)(*operands))
    keep = np.ones(operands[0].shape, dtype=bool)
    for g in first + second:
        keep &= ~np.isnan(np.array(g))
    keep = mx.array(np.flatnonzero(keep))
    cases.append({"source": source, "in": [bits(x[keep]) for x in operands], "out": bits(f(*operands)[keep]),
                  "first": [bits(g[keep]) for g in first], "second": [bits(g[keep]) for g in second]})


for source, (f, points) in ONE.items():
    add(source, f, [points])
for source, f in TWO.items():
    add(source, f, [[a for a, _ in PAIRS], [b for _, b in PAIRS]])
path = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "derivative_cases.json"
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")
