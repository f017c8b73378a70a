#!/usr/bin/env python3
"""Writes tests/data/quantized_cases.json: quantized arrays as MLX (on the CPU) makes them.

Needs the package mlx[cpu]. Arrays are {"t": dtype, "s": shape, "x": bytes in hex}.
"""
import json
import pathlib
import random

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
pick = random.Random(5)
rng = np.random.default_rng(5)
FORMATS = [("affine", b, g) for b, g in ((2, 32), (2, 64), (3, 64), (3, 128), (4, 32), (4, 64), (4, 128), (5, 64), (6, 32), (6, 128),
                                          (8, 64))]
FORMATS += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]


def pack(a):
    raw = np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a).reshape(a.shape)
    return {"t": str(a.dtype).replace("mlx.core.", ""), "s": list(a.shape), "x": np.ascontiguousarray(raw).tobytes().hex()}


quantized = []
for mode, bits, group in FORMATS:
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        w = (rng.standard_normal((3, 128)) * 10.0 ** rng.integers(-3, 2)).astype(np.float32)
        w[1, 64:] = -np.abs(w[1, 64:])
        w[2] = np.abs(w[2])
        w[2, 64:] = pick.choice([0, w[0, 0]])
        w = mx.array(w).astype(dtype)
        out = mx.quantize(w, group_size=group, bits=bits, mode=mode)
        wide = [o.astype(mx.float32) if mode == "affine" and i else o for i, o in enumerate(out)]
        values = mx.dequantize(*wide, group_size=group, bits=bits, mode=mode, dtype=mx.float32)
        quantized.append({"mode": mode, "bits": bits, "group": group, "w": pack(w), "out": [pack(o) for o in out], "values": pack(values)})

x = np.concatenate([rng.standard_normal(60) * s for s in (1e-3, 1, 100, 400)]).astype(np.float32)
x = mx.array(np.concatenate([x, np.array([np.inf, -np.inf, np.nan, 448, 464, 463.9, 0, -0.0, 2.0**-9, 2.0**-10], np.float32)]))
codes = mx.arange(127).astype(mx.uint8)
fp8 = {"x": pack(x), "codes": pack(mx.to_fp8(x)), "all": pack(codes), "values": pack(mx.from_fp8(codes, mx.float32))}

target = pathlib.Path(__file__).resolve().parent.parent / "tests/data/quantized_cases.json"
lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in quantized)
target.write_text('{"quantize":[\n' + lines + '\n],\n"fp8":' + json.dumps(fp8, separators=(",", ":")) + "}\n")
print(f"{target}: {len(quantized)} cases, {target.stat().st_size} bytes")
