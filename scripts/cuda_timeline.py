#!/usr/bin/env python3
"""Writes the timeline of a token by the resident kernel in docs/cuda.md from a profile (docs/capsules.md). --check only compares."""
import json
import os
import sys

sys.dont_write_bytecode = True  # nothing but the page is written
import pages  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(TOP, "docs", "cuda.md")
CAPSULE = os.path.join(TOP, "benchmarks", "capsules", "cuda-h200-lfm2-8b-profile.json")
BEGIN, END = "<!-- timeline: made by scripts/cuda_timeline.py from benchmarks/capsules -->", "<!-- end of the timeline -->"
STEP, WHOLE_STEP = 0.5, 10.0  # microseconds of a character: of a layer, of the whole token
LABEL = 38

# Halves of layers in the order of a token: their instructions in the order in which they are played, as (what, op, kind, rank), rank being
# the place among those of the op and kind, the most tiles first. The capsule has means over layers only, and no order. The first of each
# half is the READY with the norm; the instruction that counts the layers follows the name.
NORM = ("READY: sums, norm, digits", "fused_residual_norm", "ready", 0)
HALVES = [
    ("a convolution", ("fused_short_conv", "conv"), [
        NORM,
        ("in-projection", "fused_short_conv", "dot", 0),
        ("READY: convolution, digits", "fused_short_conv", "ready", 0),
        ("out-projection", "fused_short_conv", "dot", 1),
        ("state of the convolution", "fused_short_conv", "conv", 0)]),
    ("attention", ("fused_attention", "attend"), [
        NORM,
        ("q", "fused_qkv", "dot", 0),
        ("k, v", "fused_qkv", "dot", 1),
        ("turn q", "fused_qkv", "rotate", 0),
        ("turn k", "fused_qkv", "rotate", 1),
        ("write k, v", "fused_attention", "write", 0),
        ("attend", "fused_attention", "attend", 0),
        ("join", "fused_attention", "join", 0),
        ("READY: digits", "linear", "ready", 0),
        ("out-projection", "linear", "dot", 1)]),
    ("experts", ("fused_moe_mlp", "route"), [
        NORM,
        ("router", "fused_moe_mlp", "dot", 2),
        ("choice", "fused_moe_mlp", "route", 0),
        ("gate with up", "fused_moe_mlp", "dot", 1),
        ("READY: digits", "fused_moe_mlp", "ready", 0),
        ("down", "fused_moe_mlp", "dot", 0)]),
    ("a dense MLP", ("fused_swiglu_mlp", "ready"), [
        NORM,
        ("gate with up", "fused_swiglu_mlp", "dot", 0),
        ("READY: digits", "fused_swiglu_mlp", "ready", 0),
        ("down", "fused_swiglu_mlp", "dot", 1)]),
]


def add(a, b):
    return tuple(x + y for x, y in zip(a, b))


def times(rows):
    """Microseconds of all rows: waiting for the last block, barriers and the way into them, at work."""
    total = (0.0, 0.0, 0.0)
    for r in rows:
        idle = r["idle_seconds"]
        total = add(total, (idle * 1e6, (r["waited_seconds"] - idle) * 1e6, r["seconds"] * 1e6))
    return total


def pick(rows, op, kind, rank=0):
    found = sorted((r for r in rows if r["op"] == op and r["kind"] == kind), key=lambda r: -r["tiles"])
    if len(found) <= rank:
        sys.exit(f"{os.path.basename(CAPSULE)}: there is no {kind} number {rank + 1} of {op}")
    return found[rank]


def bar(start, parts, step):
    """The parts one after another from `start` on; ends are rounded, not lengths, so that nothing adds up to another length."""
    text, at, edge = "", start, round(start / step)
    for part, sign in zip(parts, "-.#"):
        at += part
        text += sign * (round(at / step) - edge)
        edge = round(at / step)
    return text


def line(what, start, parts, step):
    indent = " " * round(start / step)
    return f"{what:<{LABEL}}{parts[2]:7.1f}{parts[0] + parts[1]:7.1f}  {indent}{bar(start, parts, step)}".rstrip()


def half(rows, name, counted, instructions):
    """The picture of a half of a layer, how many there are, and the times of all of them."""
    layers = pick(rows, *counted)["count"]
    lines, at, total = [], 0.0, (0.0, 0.0, 0.0)
    for what, op, kind, rank in instructions:
        r = pick(rows, op, kind, rank)
        each = r["count"] if op == NORM[1] else layers  # the norm stands in front of all halves
        parts = tuple(x / each for x in times([r]))
        lines.append(line(f"  {what}", at, parts, STEP))
        at += sum(parts)
        total = add(total, parts)
    head = f"{f'{name}, each of {layers}':<{LABEL}}{total[2]:7.1f}{total[0] + total[1]:7.1f}"
    return [head] + lines, layers, tuple(x * layers for x in total)


def timeline():
    with open(CAPSULE) as f:
        rows = json.load(f)["result"]["instructions"]
    pictures, whole, known = [], [], (0.0, 0.0, 0.0)
    for name, counted, instructions in HALVES:
        lines, layers, total = half(rows, name, counted, instructions)
        pictures += [""] + lines
        whole.append((f"  {layers} x {name}", total))
        known = add(known, total)
    every = times(rows)
    head = times([pick(rows, "linear", "dot", 0)])
    rest = tuple(a - b - c for a, b, c in zip(every, known, head))
    whole += [("  the head", head), ("  before the layers and behind them", tuple(max(x, 0.0) for x in rest))]
    out = [f"{'us':<{LABEL}}{'work':>7}{'wait':>7}  # work   - until the last block comes   . the barrier, and the way into it"]
    out += [f"{'':<{LABEL}}{'':>14}  a character: {STEP} us; of the whole token {WHOLE_STEP:.0f} us"] + pictures
    out += ["", f"{'the whole token':<{LABEL}}{every[2]:7.1f}{every[0] + every[1]:7.1f}"]
    out += [line(what, 0.0, parts, WHOLE_STEP) for what, parts in whole]
    return "```\n" + "\n".join(out) + "\n```"


def main():
    pages.publish(PAGE, pages.between(PAGE, BEGIN, END, timeline()), "--check" in sys.argv[1:], "scripts/cuda_timeline.py")


if __name__ == "__main__":
    main()
