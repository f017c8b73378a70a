#!/usr/bin/env python3
"""Writes docs/catalog-speed.md and docs/array-speed.md from the capsules of benchmarks/peers/beside_mlx.py, and of benchmarks/memory.py
(kind "memory") for the former. --check only compares; --reasons FILE takes the place of reasons.txt.

benchmarks/peers/reasons.txt says why a row is slower than MLX's: "name = reason". A row below 1x without a reason is an error, and so is
one of the other kind below 85% of the bandwidth without "memory name = reason".
"""
import glob
import json
import os
import sys

sys.dont_write_bytecode = True  # nothing but the page is written
import pages  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def reasons():
    given = sys.argv[sys.argv.index("--reasons") + 1] if "--reasons" in sys.argv[1:] else "benchmarks/peers/reasons.txt"
    with open(os.path.join(TOP, given)) as f:
        lines = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    return dict((part.strip() for part in line.split("=", 1)) for line in lines)


def micro(seconds):
    return f"{seconds * 1e6:,.0f}" if seconds else ""


def key_of(name, dtype):
    return name if dtype == "float32" else f"{dtype} {name}"


def row_of(r, dtype, why, copy):
    if "error" in r:
        return [r["name"], *[""] * (7 if dtype == "float32" else 8), r["error"]]
    m = r.get("best") or r["median"]
    mlx = min((v for k, v in m.items() if k.startswith("mlx")), default=None)
    ratio = lambda k: f"{r[k]:.2f}" if k in r else ""
    reason = why.get(key_of(r["name"], dtype), "") if r.get("over_mlx", 0) < 1 else ""
    share = f"{r['gb_s'] / copy:.0%}"
    value = f"{r['difference']:.0e}" if r.get("difference") else "0" if "difference" in r else r.get("not_compared", "")
    own = [f"{r['mlx_difference']:.0e}" if "mlx_difference" in r else ""] if dtype != "float32" else []
    times = [micro(m["zmlx"]), micro(mlx), micro(m.get("numpy"))]
    return [r["name"].removeprefix("arrays."), *times, ratio("over_mlx"), ratio("over_numpy"), share, value, *own, reason]


def section(path, kind, why):
    with open(path) as f:
        c = json.load(f)
    if c["kind"] == "memory" and kind == "catalog":
        return memory_section(path, c, why)
    if c["kind"] != kind:
        return None, []
    s, machine, short = c["summary"], c["machine"], c["dtype"] != "float32"
    copy = max(b["copy"] for b in c["bandwidth_gb_s"])
    lines = [
        f"## `{os.path.basename(path)}`",
        "",
        f"{c['dtype']}, {'operands of each sample' if not c['elements'] else str(c['elements']) + ' elements'}; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['isa']}; MLX {c['peers']['mlx']} on the CPU, NumPy {c['peers']['numpy']}; "
        f"commit {c['commit']}{', load ' + format(c['load'], '.0f') if 'load' in c else ''}. A plain copy moves {copy:.1f} GB/s.",
        "",
        f"Geometric mean over {s['rows_beside_mlx']} rows: **{s['geomean_over_mlx']:.2f}x MLX**"
        + (f", {s['geomean_over_numpy']:.2f}x NumPy." if s["geomean_over_numpy"] else "."),
        "",
        f"| row | us | MLX us | NumPy us | x MLX | x NumPy | of a copy | difference |{' MLX itself |' if short else ''} why not faster |",
        f"|---|---:|---:|---:|---:|---:|---:|---:|{'---:|' if short else ''}---|",
    ]
    lines += ["| " + " | ".join(row_of(r, c["dtype"], why, copy)) + " |" for r in c["rows"]]
    below = [key_of(r["name"], c["dtype"]) for r in c["rows"] if r.get("over_mlx", 1) < 1]
    return "\n".join(lines), [name for name in below if name not in why]


ENOUGH = 0.85  # of the bandwidth
WORDS = {"chain": "chains", "row": "rows of the catalog"}


def is_computing(r):
    """Whether the arithmetic alone takes what memory would at 85%."""
    return r["cycles"] > ENOUGH * r["memory_cycles"]


def memory_row(r, why):
    if "error" in r:
        return [r["name"], "", "", "", "", "", r["error"]]
    s = r["streams"]
    against = f"{s['reads'] + s.get('thin', 0) / 4:g} : {s['writes']}" if s["writes"] else "reading"
    moved = (r["bytes_read"] + r["bytes_written"]) / 1e6
    reason = why.get("memory " + r["name"], "") if r["share"] < ENOUGH else ""
    if r["share"] < ENOUGH and not reason and is_computing(r):
        reason = f"arithmetic: {r['cycles']:.2f} cycles an element, memory {r['memory_cycles']:.2f}"
    figures = [f"{moved:,.0f}", f"{r['gb_s']:.1f}", f"{against}, {s['best']:.1f}", f"{r['share']:.0%}", f"{r['cycles']:.2f}"]
    return [r["name"], *figures, reason]


def memory_section(path, c, why):
    machine = c["machine"]
    cycles = 8 / max(r["streams"]["best"] for r in c["rows"] if "streams" in r) * machine["cores"] * machine["ghz"]
    lines = [
        f"## `{os.path.basename(path)}`: beyond the caches",
        "",
        f"{c['dtype']}, {c['elements']:,} elements in the first operand; {machine['cpu']}, {machine['cores']} cores, {machine['isa']}; "
        f"commit {c['commit']}. Made by `benchmarks/memory.py`. GB/s: bytes of operands and results, each once. \"Of\": what all cores",
        "reach in the same process, measured in turns with the row, with as many arrays read and written (the nearest such pair; one of",
        "bytes counts a quarter) and no arithmetic, in the way that is fastest there. Cycles: of one core's time stamp counter an element,",
        f"of the same kernel on operands inside the caches, calls included; memory takes {cycles:.1f} for a float read and one written.",
        "",
    ]
    for kind, title in (("chain", "chains, compiled by `zm_compile`"), ("row", "rows of the catalog")):
        lines += [
            f"| {title} | MB | GB/s | of (read : written) | share | cycles | why not more |",
            "|---|---:|---:|---:|---:|---:|---|",
            *("| " + " | ".join(memory_row(r, why)) + " |" for r in c["rows"] if r["kind"] == kind),
            "",
        ]
    below = {kind: [r["name"] for r in c["rows"] if r["kind"] == kind and r.get("share", 1) < ENOUGH] for kind in ("chain", "row")}
    counted = {kind: sum(r["kind"] == kind and "share" in r for r in c["rows"]) for kind in below}
    lines += [
        "; ".join(f"{counted[k] - len(below[k])} of {counted[k]} {word} reach {ENOUGH:.0%} or more" for k, word in WORDS.items()) + ".",
    ]
    if below["chain"] + below["row"]:
        names = ", ".join(below["chain"] + below["row"])
        lines += [f"Below it: {names}; why is in the last column, in cycles or instructions of arithmetic."]
    lines += ["A row below without a reason fails the page's test.", ""]
    low = [r["name"] for r in c["rows"] if r.get("share", 1) < ENOUGH and not is_computing(r)]
    low = [n for n in low if "memory " + n not in why]
    return "\n".join(lines[:-1]), ["memory " + n for n in low]


ABOUT = """\
Made by `scripts/catalog_speed.py` from the capsules of `benchmarks/peers/beside_mlx.py`: the fastest call of interleaved rounds of one run,
all threads of each library; MLX plainly and under `mx.compile`, the faster counts. "Of a copy": bytes of operands and results a second
beside what a plain copy of memory moves; above 100% what is used stays in the caches. "Difference": the largest of MLX's results from
ours, relative to the largest magnitude; the tolerance is in the file of the peers, and a capsule with a row beyond it is not written. In
float16 and bfloat16 the values expected are those that MLX computes in float32 from the same operands, and ours are two roundings of a
result from them at most (four where a row of the catalog says that it rounds each step); "MLX itself" is how far MLX's results in the
short dtype are, which rounds between its steps: running sums, sums over experts and codes at a tie differ visibly there.
"""

PAGES = {
    "catalog": "# Speed of the catalog\n\n" + ABOUT,
    "arrays": "# Speed of array operations\n\nThe rows are in `benchmarks/arrays.c`, with their shapes. `author_norm` is the kernel of\n"
    "`examples/norm`, beside MLX's sum and `mx.fast.rms_norm` under `mx.compile`.\n\n" + ABOUT,
}


def page_of(kind):
    return os.path.join(TOP, "docs", {"catalog": "catalog-speed.md", "arrays": "array-speed.md"}[kind])


def page(kind):
    why, parts, missing = reasons(), [], []
    for path in sorted(glob.glob(os.path.join(TOP, "benchmarks", "capsules", "*.json"))):
        text, without = section(path, kind, why)
        parts += [text] if text else []
        missing += without
    if missing:
        sys.exit(f"benchmarks/peers/reasons.txt: no reason for {', '.join(missing)}")
    return PAGES[kind] + "\n" + "\n\n".join(parts) + "\n" if parts else None


def main():
    for kind in PAGES:
        new = page(kind)
        if new is not None:
            pages.publish(page_of(kind), new, "--check" in sys.argv[1:], "scripts/catalog_speed.py")


if __name__ == "__main__":
    main()
