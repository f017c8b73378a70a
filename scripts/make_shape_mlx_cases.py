#!/usr/bin/env python3
"""Writes tests/data/op_mlx_shapes.json and catalog_mlx_shapes.json: dims of 0 and 1, operands that are not contiguous, by MLX on the CPU.

Needs mlx and numpy. Of each operation of make_op_mlx_cases.py and each row of make_catalog_mlx_cases.py the first small case, again: its
first dim 0, then 1 (in all operands that share it), and the same elements in other places of memory ("lay": t transposed, s every other
place, r backwards along all axes; f: the first place of the first axis in all its places). MLX gets them laid out like that too. Results
are stored as of large cases: a few elements and sums over all. (A last dim of 0 ends MLX, or makes it give what is left in memory; what
this library gives then is said in tests/test_op_shapes.c and test_catalog_shapes.c.)
"""
import json
import signal
import subprocess
import sys

import mlx.core as mx
import numpy as np

import make_catalog_mlx_cases as made
import make_op_mlx_cases as ops

made.KEPT = 3
LAYOUTS = "tsr"
# Cases that mean nothing, and why.
LEFT = {
    "take": ("first 1",),  # places that there are not: MLX gives what is in memory there
    "gather_qmm_swiglu": ("first 1",),  # the same
    "fused_gather_add": ("first 1",),
    "take_add": ("first 1",),  # as many places as rows
    "attention_tile_proto": ("first 1", "first 0"),  # 16 rows
    "dequantize_blockwise": ("first 1", "first 0"),  # as many scales as blocks
    "fused_swiglu_quant": ("first 1", "first 0"),
    "ttt_linear_decode": ("first 1",),  # as many rates as rows
    "ttt_linear": ("first 1",),  # as many matrices as heads
}


def remake(o, shape):
    """An operand by the same rule with another shape."""
    spec = dict(o.spec, s=list(shape))
    n = int(np.prod(shape, dtype=np.int64))
    if "x" in spec:
        value = o.value[tuple(slice(0, k) for k in shape)]
        spec["x"] = [v if not isinstance(v, float) or np.isfinite(v) else str(v) for v in value.ravel().tolist()]
        return made.base.Operand(spec, value)
    h = made.base.hashed(spec["seed"], n).astype(np.int64)
    if o.value.dtype.kind == "f":
        k = h % (2 * spec["m"] + 1) - spec["m"] + spec["add"]
        return made.base.Operand(spec, ((k + (0.5 if spec.get("odd") else 0)) / spec["d"]).reshape(shape))
    v = h >> 31 if spec["t"] == "bool" else h % spec["below"] + spec["add"] if spec["below"] else h
    return made.base.Operand(spec, v.reshape(shape))


def laid(o, how):
    """The operand's MLX array with its elements elsewhere in memory."""
    a = plain_value(o)
    if how == "t":
        back = mx.contiguous(a.transpose())
        mx.eval(back)
        return back.transpose()
    if how == "s":
        wide = mx.zeros([2 * n + 2 for n in a.shape], dtype=a.dtype)
        where = tuple(slice(1, 1 + 2 * n, 2) for n in a.shape)
        wide[where] = a
        mx.eval(wide)
        return wide[where]
    if how == "r":
        where = tuple(slice(None, None, -1) for _ in a.shape)
        back = mx.contiguous(a[where])
        mx.eval(back)
        return back[where]
    return mx.broadcast_to(a[:1], a.shape)


plain_value = made.value_of
made.value_of = lambda o: laid(o, o.spec["lay"]) if o.spec.get("lay") else plain_value(o)


def with_layout(o, how):
    if o.value.ndim == 0 or 0 in o.value.shape:
        return o
    return made.base.Operand(dict(o.spec, lay=how), o.value)


def resized(operands, axis, size):
    """The dim of the first operand at this axis, in all operands that share it there."""
    n = operands[0].value.shape[axis]
    def one(k, o):
        s = list(o.value.shape)
        shared = k == 0 or (s and s[axis] == n and (len(s) > 1 or operands[0].value.ndim == 1 or "x" in o.spec))
        if not shared:
            return o
        s[axis] = size
        return remake(o, s)
    return [one(k, o) for k, o in enumerate(operands)]


ALIKE = {*ops.UNARY, *ops.BINARY, *ops.INTEGER, *ops.OWN}  # rows of one table: each of the sizes in turn


def variants(row, number, operands):
    yield "strided", [with_layout(o, LAYOUTS[(number + k) % 3]) for k, o in enumerate(operands)]
    if row not in ALIKE or number % 3 == 0:
        # Of integers the elements are to stay as they are: they may be places.
        yield "broadcast", [with_layout(o, "f" if o.value.dtype.kind == "f" else "s") for o in operands]
    if not operands[0].value.ndim:
        return
    if row not in ALIKE or number % 3 == 1:
        yield "first 1", resized(operands, 0, 1)
    if row not in ALIKE or number % 3 == 2:
        yield "first 0", resized(operands, 0, 0)


def all_of(name, recorded):
    """(name of the file, row, word, operands, parameters, function) of each case."""
    seen = set()
    for number, (row, operands, params, f) in enumerate(recorded):
        if row in seen:
            continue
        seen.add(row)
        for word, changed in variants(row, number, operands):
            if word not in LEFT.get(row, ()):
                yield name, row, word, changed, params, f


def record_all():
    recorded = []
    def record(row, operands, params=(), grad="", second=False, large=False, types=None):
        if not large:
            recorded.append((row, operands, params, made.function_of(row, len(params))))
    plain, made.case, ops.case = made.case, record, record
    made.base._seed[0] = 40000
    for part in (ops.elementwise, ops.shapes, ops.rows, ops.products, ops.functions):
        part()
    of_ops = list(all_of("op_mlx_shapes.json", recorded))
    recorded.clear()
    made.OWN.clear()
    made.OWN.update(own)
    made.base._seed[0] = 20000
    for part in (made.elementwise_cases, made.row_cases, made.attention_cases, made.quant_cases, made.other_cases):
        part()
    record("ttt_linear", made.base.layer(2, 5, 2, 3, 3), [2, 1, 0])
    made.case = plain
    return of_ops + list(all_of("catalog_mlx_shapes.json", recorded))


def work(first):
    """The cases from that one on, a line each."""
    for name, row, word, operands, params, f in record_all()[first:]:
        made.OWN[row] = f
        made.cases.clear()
        signal.alarm(30)
        try:
            made.case(row, operands, params, large=True)
            for spec in made.cases[0]["in"]:
                for key, usual in (("t", "T"), ("m", 64), ("d", 32)):
                    if spec.get(key) == usual:
                        del spec[key]
            print(f"{name} {json.dumps(made.cases[0], separators=(',', ':'))}", flush=True)
        except Exception as e:  # MLX, or the composition of its operations here, does not take it
            print(f"- {row}, {word}: {(str(e).splitlines() or [''])[0][:90]}", flush=True)


def main():
    mx.set_default_device(mx.cpu)
    if len(sys.argv) > 1:
        return work(int(sys.argv[1]))
    total, lines = [f"{row}, {word}" for _, row, word, *_ in record_all()], []
    while len(lines) < len(total):  # with some dims of 0 MLX ends, or does not
        first = len(lines)
        done = subprocess.run([sys.executable, __file__, str(first)], stdout=subprocess.PIPE, text=True)
        lines += done.stdout.splitlines()
        if len(lines) == first:  # not even alone
            lines.append(f"- {total[len(lines)]}: it ends with {done.returncode}")
    for name in ("op_mlx_shapes.json", "catalog_mlx_shapes.json"):
        text = "[\n" + ",\n".join(line.split(" ", 1)[1] for line in lines if line.startswith(name)) + "\n]\n"
        (made.HERE.parent / "tests" / "data" / name).write_text(text)
        print(f"{name}: {text.count(chr(10)) - 2} cases, {len(text) // 1024} KB")
    print("\n".join(line for line in lines if line[0] == "-"))


own = dict(made.OWN)

if __name__ == "__main__":
    main()
