#!/usr/bin/env python3
"""Writes tests/data/linear_cases.json: convolutions and their gradients as MLX (on the CPU) computes them.

Needs the package mlx[cpu]. Arrays are {"t": dtype, "s": shape, "x": bytes in hex}. Gradients are kept where MLX gives them the shape of
their operand, which it does not for every input dilation.
"""
import json
import pathlib
import random

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(4)
pick = random.Random(4)
cases = []


def pack(a):
    raw = np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a).reshape(a.shape)
    return {"t": str(a.dtype).replace("mlx.core.", ""), "s": list(a.shape), "x": np.ascontiguousarray(raw).tobytes().hex()}


def sample(shape, dtype=mx.float32):
    return mx.array(rng.integers(-512, 513, shape).astype(np.float32) / 256).astype(dtype)


while len(cases) < 50:
    space = pick.choice([1, 2, 2, 3])
    groups = pick.choice([1, 1, 2, 3]) if space < 3 else 1
    per, filters = pick.choice([1, 2, 5]), groups * pick.choice([1, 2, 7])
    kernel = [pick.randint(1, 3) for _ in range(space)]
    args = {
        "stride": [pick.randint(1, 3) for _ in range(space)],
        "low": [pick.randint(0, 2) for _ in range(space)],
        "high": [pick.randint(0, 2) for _ in range(space)],
        "dilation": [pick.randint(1, 2) for _ in range(space)],
        "input_dilation": [pick.choice([1, 1, 2]) for _ in range(space)],
        "groups": groups,
        "flip": pick.random() < 0.3,
    }
    size = [pick.randint(5, 7) for _ in range(space)]
    dtype = pick.choice([mx.float32, mx.float32, mx.float16, mx.bfloat16])
    x, w = sample([pick.choice([1, 2])] + size + [groups * per], dtype), sample([filters] + kernel + [per], dtype)

    def f(x, w):
        return mx.conv_general(x, w, stride=args["stride"], padding=(args["low"], args["high"]), kernel_dilation=args["dilation"],
                               input_dilation=args["input_dilation"], groups=groups, flip=args["flip"])

    try:
        y = f(x.astype(mx.float32), w.astype(mx.float32)).astype(dtype)  # in half precision MLX rounds between places of the kernel
        mx.eval(y)
    except ValueError:  # the kernel does not fit
        continue
    if y.size > 400:
        continue
    c = {"in": [pack(x), pack(w)], "args": args, "out": pack(y)}
    if dtype == mx.float32:
        g = sample(y.shape)
        try:
            _, grads = mx.vjp(f, [x, w], [g])
            mx.eval(grads)
        except ValueError:
            grads = [g, g]
        if grads[0].shape == x.shape and grads[1].shape == w.shape:
            c["cotangent"], c["gradients"] = pack(g), [pack(v) for v in grads]
    cases.append(c)

target = pathlib.Path(__file__).resolve().parent.parent / "tests/data/linear_cases.json"
lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
convolved = []
for n, m in ((1, 1), (7, 3), (3, 8), (6, 6), (40, 5), (1, 4)):
    a, v = (mx.array(np.random.default_rng(n).standard_normal(k).astype(np.float32)) for k in (n, m))
    for mode in ("full", "same", "valid"):
        convolved.append({"mode": mode, "in": [pack(a), pack(v)], "out": pack(mx.convolve(a, v, mode=mode)), "tol": 1e-6})
more = ",\n".join(json.dumps(c, separators=(",", ":")) for c in convolved)
target.write_text('{"conv":[\n' + lines + '\n],"convolve":[\n' + more + "\n]}\n")
print(f"{target}: {len(cases)} cases, {target.stat().st_size} bytes")
