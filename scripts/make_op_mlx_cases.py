#!/usr/bin/env python3
"""Writes tests/data/op_mlx_cases.json: operations of the op table by MLX on the CPU, in the form of make_catalog_mlx_cases.py.

Needs mlx and numpy. Of each operation of tests/op_rows.h: more than a million elements in float32, of which every so many are stored with
two sums over all, and a small odd shape in every float dtype. (Dtypes, special numbers and the many arguments of operations are the matter
of make_array_cases.py and its like.)
"""
import json

import mlx.core as mx
import numpy as np

import make_catalog_mlx_cases as made
from make_catalog_mlx_cases import F, I, case

BIG, SMALL = (33, 173, 187), (3, 5, 7)
ROWS, FEW = (1031, 1021), (3, 7)
UNIT = dict(m=60, d=64, odd=True)  # inside of (-1, 1)
ABOVE = dict(add=66)

UNARY = {
    "exp": {}, "log": ABOVE, "sqrt": ABOVE, "rsqrt": ABOVE, "sigmoid": {}, "tanh": {}, "negative": {}, "abs": {}, "square": {},
    "reciprocal": ABOVE, "sign": {}, "floor": {}, "ceil": {}, "degrees": {}, "radians": {}, "expm1": dict(odd=True), "log2": ABOVE,
    "log10": ABOVE, "log1p": ABOVE, "sin": {}, "cos": {}, "tan": UNIT, "arcsin": UNIT, "arccos": UNIT, "arctan": {}, "sinh": {}, "cosh": {},
    "arcsinh": {}, "arccosh": dict(add=98), "arctanh": UNIT, "erf": {}, "erfinv": UNIT, "isnan": {}, "isinf": {}, "isfinite": {},
    "isneginf": {}, "isposinf": {}, "logical_not": {},
}
BINARY = {
    "add": {}, "subtract": {}, "multiply": {}, "divide": ABOVE, "maximum": {}, "minimum": {}, "equal": {}, "not_equal": {}, "less": {},
    "less_equal": {}, "greater": {}, "greater_equal": {}, "remainder": ABOVE, "floor_divide": ABOVE, "arctan2": ABOVE, "logaddexp": {},
    "logical_and": {}, "logical_or": {},
}
INTEGER = ["bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"]
one = lambda f: lambda *a: (f(*a),)  # noqa: E731

OWN = {
    "silu": lambda x: x * mx.sigmoid(x),
    "trunc": lambda x: mx.where(x < 0, mx.ceil(x), mx.floor(x)),
    "exp2": lambda x: mx.power(2.0, x),
    "softplus": lambda x: mx.logaddexp(x, 0.0),
}


def both(row, big, small, f):
    """A large case in float32, a small one in every float dtype."""
    made.OWN[row] = one(f)
    case(row, big, large=True)
    case(row, small)


def several(row, big, small, f):
    made.OWN[row] = f
    case(row, big, large=True)
    case(row, small)


def elementwise():
    for row, how in UNARY.items():
        both(row, [F(*BIG, **how)], [F(*SMALL, **how)], getattr(mx, row))
    for row, f in OWN.items():
        both(row, [F(*BIG)], [F(*SMALL)], f)
    for row, how in BINARY.items():
        both(row, [F(*BIG), F(*BIG, **how)], [F(*SMALL), F(*SMALL, **how)], getattr(mx, row))
    both("power", [F(*BIG, **ABOVE), F(*BIG)], [F(*SMALL, **ABOVE), F(*SMALL)], mx.power)
    for row in INTEGER:
        both(row, [I(*BIG, below=30), I(*BIG, below=20)], [I(*SMALL, below=30), I(*SMALL, below=20)], getattr(mx, row))
    both("bitwise_invert", [I(*ROWS, below=60000, t="uint16")], [I(*FEW, below=60000, t="uint16")], mx.bitwise_invert)
    both("where", [I(*ROWS, t="bool"), F(*ROWS), F(*ROWS)], [I(*FEW, t="bool"), F(*FEW), F(*FEW)], mx.where)
    both("round", [F(*ROWS)], [F(*FEW)], mx.round)
    both("replace_nonfinite", [F(*ROWS)], [F(*FEW)], mx.nan_to_num)
    both("astype", [F(*ROWS)], [F(*FEW)], lambda x: x.astype(mx.int16))
    both("to_fp8", [F(*ROWS)], [F(*FEW)], mx.to_fp8)
    both("from_fp8", [I(*ROWS, below=126, t="uint8")], [I(*FEW, below=126, t="uint8")], lambda x: mx.from_fp8(x, mx.float32))
    both("view", [F(*ROWS, t="float32")], [F(*FEW, t="float32")], lambda x: x.view(mx.int32))


def shapes():
    both("reshape", [F(33, 8191, 4)], [F(3, 5, 4)], lambda x: x.reshape(x.shape[0], -1))
    both("transpose", [F(*BIG)], [F(*SMALL)], lambda x: x.transpose(2, 0, 1))
    both("broadcast_to", [F(209717, 1)], [F(7, 1)], lambda x: mx.broadcast_to(x, (x.shape[0], 5)))
    both("slice", [F(1031, 2042)], [F(3, 14)], lambda x: x[:, 1::2])
    both("copy", [F(*BIG)], [F(*SMALL)], mx.transpose)
    both("concatenate", [F(1031, 509), F(1031, 513)], [F(3, 5), F(3, 2)], lambda a, b: mx.concatenate([a, b], axis=1))
    both("take", [F(301, 1021), I(1031, below=301)], [F(4, 7), I(3, below=4)], lambda x, i: mx.take(x, i, axis=0))
    both("slice_at", [F(149797, 7), I(1, below=5)], [F(3, 7), I(1, below=5)], lambda x, i: x[:, int(i[0]):int(i[0]) + 2])
    both("slice_update", [F(149797, 7), F(149797, 3)], [F(3, 7), F(3, 3)], lambda x, u: x.at[:, 1::2].add(u - x[:, 1::2]))
    both("diagonal", [F(17, 257, 257)], [F(3, 5, 5)], lambda x: mx.diagonal(x, 0, 1, 2))
    both("as_strided", [F(262147, 4)], [F(5, 4)], lambda x: mx.as_strided(x, (x.shape[0], 2), (4, 2)))
    both("place", [F(1031, 1021)], [F(3, 5)], lambda x: mx.stack([x, mx.zeros_like(x)], axis=-1).reshape(x.shape[0], -1))


def rows():
    for row in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"):
        f = getattr(mx, row)
        options = {"cumprod": dict(reverse=True), "cummax": dict(inclusive=False)}.get(row, {})
        axes = (3, 7, 5) if row in ("cumprod", "cummin") else (3, 7)
        # A product of many stays near 1.
        how = dict(m=1, d=4096, add=4096) if row == "cumprod" else {}
        big = (33, 173, 187) if len(axes) == 3 else (1031, 1021)
        both(row, [F(*big, **how)], [F(*axes)], lambda x, f=f, o=options: f(x, axis=1, **o))
    both("sort", [F(*ROWS)], [F(*FEW)], lambda x: mx.sort(x, axis=1))
    both("argsort", [F(*BIG)], [F(*SMALL)], lambda x: mx.argsort(x, axis=1))
    def topk(x):
        i = mx.argsort(-x, axis=1)[:, :3]
        return mx.take_along_axis(x, i, axis=1), i
    several("topk", [F(*ROWS)], [F(*FEW)], topk)
    both("gather", [F(33, 257, 127), I(301, below=257)], [F(3, 4, 5), I(7, below=4)], lambda x, i: mx.take(x, i, axis=1))
    both("scatter", [F(33, 257, 127), F(33, 301, 127), I(301, below=257)], [F(3, 4, 5), F(3, 7, 5), I(7, below=4)],
         lambda x, u, i: x.at[:, i].add(u))
    both("take_along_axis", [F(*ROWS), I(1031, 1025, below=1021)], [F(3, 7), I(3, 9, below=7)],
         lambda x, i: mx.take_along_axis(x, i, axis=1))
    both("put_along_axis", [F(*ROWS), I(1031, 1, below=1021), F(1031, 1)], [F(3, 7), I(3, 1, below=7), F(3, 1)],
         lambda x, i, v: mx.put_along_axis(x, i, v, axis=1))
    both("take_add", [F(1031, 1021), I(1031, below=4)], [F(7, 5), I(7, below=4)], lambda x, i: mx.zeros((4, x.shape[1])).at[i].add(x))
    both("softmax", [F(*ROWS)], [F(*FEW)], lambda x: mx.softmax(x, axis=-1))
    for row in ("prod", "var", "logsumexp", "argmin", "argmax", "any", "all", "sum", "mean", "max", "min"):
        three = row in ("var", "argmax", "all", "mean", "min")
        how = dict(m=1, d=4096, add=4096) if row == "prod" else {}
        big = BIG if three else (4099, 257) if row == "prod" else (257, 4099)
        both(row, [F(*big, **how)], [F(*(SMALL if three else FEW))], lambda x, f=getattr(mx, row): f(x, axis=1))
    both("rms_norm", [F(*ROWS), F(1021)], [F(*FEW), F(7)], lambda x, w: mx.fast.rms_norm(x, w, 1e-5))
    both("combine", [F(131, 8, 1021), F(131, 8)], [F(3, 2, 5), F(3, 2)], lambda y, w: (y * w[..., None]).sum(-2))
    def turned(x, c, s):
        return made.rotated(x, c[:, None], s[:, None])
    both("rope", [F(257, 65, 64), F(257, 32, t="float32"), F(257, 32, t="float32")],
         [F(3, 2, 6), F(3, 3, t="float32"), F(3, 3, t="float32")], turned)


def products():
    both("matmul", [F(3, 127, 1025, d=64), F(3, 1025, 255, d=64)], [F(2, 3, 5, d=64), F(2, 5, 7, d=64)], mx.matmul)
    both("addmm", [F(513, 511), F(513, 1025, d=64), F(1025, 511, d=64)], [F(3, 7), F(3, 5, d=64), F(5, 7, d=64)],
         lambda c, a, b: mx.addmm(c, a, b, alpha=0.5, beta=2))
    both("gather_mm", [F(33, 7, 513, d=64), F(5, 513, 255, d=64), I(33, below=5, t="uint32")],
         [F(3, 2, 5, d=64), F(4, 5, 7, d=64), I(3, below=4, t="uint32")], lambda a, b, i: mx.gather_mm(a, b, rhs_indices=i))
    both("conv", [F(3, 65, 67, 33, d=64), F(17, 3, 3, 33, d=64)], [F(1, 4, 5, 3, d=64), F(2, 3, 3, 3, d=64)],
         lambda x, w: mx.conv2d(x, w, padding=1))
    several("quantize", [F(257, 4096)], [F(3, 64)], lambda w: mx.quantize(w, group_size=32, bits=4))
    both("dequantize", [I(257, 512, t="uint32"), F(257, 128, d=2048), F(257, 128)], [I(3, 8, t="uint32"), F(3, 2, d=2048), F(3, 2)],
         lambda w, s, b: mx.dequantize(w, s, b, group_size=32, bits=4))
    both("quantized_matmul", [F(67, 512, d=64), I(1031, 64, t="uint32"), F(1031, 16, d=2048), F(1031, 16)],
         [F(3, 64, d=64), I(5, 8, t="uint32"), F(5, 2, d=2048), F(5, 2)],
         lambda x, w, s, b: mx.quantized_matmul(x, w, s, b, transpose=True, group_size=32, bits=4))


def functions():
    both("einsum", [F(7, 257, 301, d=64), F(7, 301, 255, d=64)], [F(2, 3, 5, d=64), F(2, 5, 7, d=64)],
         lambda a, b: mx.einsum("abc,acd->abd", a, b))
    both("tensordot", [F(1031, 513, d=64), F(513, 1021, d=64)], [F(3, 5, d=64), F(5, 7, d=64)], lambda a, b: mx.tensordot(a, b, 1))
    both("inner", [F(1031, 513, d=64), F(1021, 513, d=64)], [F(3, 5, d=64), F(7, 5, d=64)], mx.inner)
    both("vecdot", [F(257, 4099, d=64), F(257, 4099, d=64)], [F(3, 5, d=64), F(3, 5, d=64)], lambda a, b: (a * b).sum(1))
    both("trace", [F(17, 257, 257)], [F(3, 5, 5)], lambda x: mx.trace(x, 0, 1, 2))
    both("stack", [F(1031, 511), F(1031, 511)], [F(3, 5), F(3, 5)], lambda a, b: mx.stack([a, b], axis=1))
    several("split", [F(1031, 1023)], [F(3, 9)], lambda x: tuple(mx.split(x, 3, axis=1)))
    both("tile", [F(1031, 511)], [F(3, 5)], lambda x: mx.tile(x, (1, 2)))
    both("repeat", [F(1031, 511)], [F(3, 5)], lambda x: mx.repeat(x, 2, axis=1))
    both("roll", [F(*ROWS)], [F(*FEW)], lambda x: mx.roll(x, 2, axis=1))
    both("flip", [F(*ROWS)], [F(*FEW)], lambda x: x[:, ::-1])
    both("pad", [F(*ROWS)], [F(*FEW)], lambda x: mx.pad(x, ((0, 0), (1, 2)), constant_values=3))
    both("tril", [F(*BIG)], [F(*SMALL)], lambda x: mx.tril(x, 1))
    both("triu", [F(*BIG)], [F(*SMALL)], lambda x: mx.triu(x, -1))
    both("kron", [F(511, 513), F(2, 3)], [F(3, 5), F(2, 3)], mx.kron)
    both("outer", [F(1031), F(1021)], [F(3), F(5)], mx.outer)
    both("diff", [F(*ROWS)], [F(*FEW)], lambda x: x[:, 1:] - x[:, :-1])
    both("median", [F(1031, 1021)], [F(3, 6)], lambda x: mx.median(x, axis=1))
    both("std", [F(*BIG)], [F(*SMALL)], lambda x: mx.std(x, axis=1))
    both("clip", [F(*ROWS), F(1021, m=20, add=-30), F(1021, m=20, add=30)], [F(*FEW), F(7, m=20, add=-30), F(7, m=20, add=30)], mx.clip)
    both("masked_fill", [F(*ROWS), I(*ROWS, t="bool")], [F(*FEW), I(*FEW, t="bool")], lambda x, m: mx.where(m, 3.0, x))
    both("count_nonzero", [F(*ROWS)], [F(*FEW, m=1)], lambda x: (x != 0).astype(mx.int32).sum(1))
    both("moveaxis", [F(*BIG)], [F(*SMALL)], lambda x: mx.moveaxis(x, 0, 2))
    both("flatten", [F(33, 8191, 4)], [F(3, 5, 4)], lambda x: mx.flatten(x, 1, 2))
    both("conv1d", [F(7, 4099, 37, d=64), F(17, 3, 37, d=64)], [F(2, 5, 3, d=64), F(2, 3, 3, d=64)],
         lambda x, w: mx.conv1d(x, w, padding=1))
    def chosen(x, w, s, b, at):
        return mx.gather_qmm(x, w, s, b, rhs_indices=at, transpose=True, group_size=32, bits=4)
    both("gather_qmm", [F(5, 3, 512, d=64), I(4, 515, 64, t="uint32"), F(4, 515, 16, d=2048), F(4, 515, 16), I(5, below=4, t="uint32")],
         [F(2, 3, 64, d=64), I(4, 5, 8, t="uint32"), F(4, 5, 2, d=2048), F(4, 5, 2), I(2, below=4, t="uint32")], chosen)
    # Last, so that the numbers of the others stay as they are.
    both("searchsorted", [F(*ROWS), F(1021)], [F(*FEW), F(7)], lambda x, s: mx.searchsorted(mx.sort(s), x))


def main():
    mx.set_default_device(mx.cpu)
    made.base._seed[0] = 40000
    made.cases.clear()
    elementwise()
    shapes()
    rows()
    products()
    functions()
    text = "[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in made.cases) + "\n]\n"
    (made.HERE.parent / "tests" / "data" / "op_mlx_cases.json").write_text(text)
    print(f"{len(made.cases)} cases, {len(text) // 1024} KB")


if __name__ == "__main__":
    main()
