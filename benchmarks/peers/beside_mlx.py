#!/usr/bin/env python3
"""Catalog kernels of zmlx beside MLX on the CPU and NumPy: same operands, same run, interleaved, all threads of each library.

For each row of the catalog, or of benchmarks/arrays.c (operations of arrays): operands as the row's sample says (--elements 0), or the
largest of about --elements elements; each library's function is timed in turn (zmlx, MLX, NumPy, NumPy, MLX, zmlx, ...). MLX runs plainly
and under mx.compile; the faster counts. Of each the fastest call counts, as others disturb a machine and nobody speeds it up. The values
are compared too: all work on the same operands, and MLX's results must be those of zmlx within the tolerance of peer_functions.py or
array_functions.py (in float16 and bfloat16: those of MLX in float32, see UNIT). Writes a capsule with all raw runs.
Needs: pip install "mlx[cpu]" numpy, and the server: ninja -C build benchmarks/bench_catalog
  benchmarks/peers/beside_mlx.py --capsule benchmarks/capsules/catalog-mlx.json
  benchmarks/peers/beside_mlx.py --rows arrays --capsule benchmarks/capsules/arrays-mlx.json
"""
import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

import array_functions
import capsules
import peer_functions
from server import Server


def timed(f, seconds):
    """Seconds of the fastest call of f, called again and again for about `seconds`."""
    start = now = time.perf_counter()
    best = math.inf
    while now - start < seconds or best == math.inf:
        before = now
        f()
        now = time.perf_counter()
        best = min(best, now - before)
    return best


def saved(folder, kind):
    """The operands ("in") or results ("out") of the row that the server wrote."""
    arrays = []
    while os.path.exists(path := os.path.join(folder, f"{kind}.{len(arrays)}.npy")):
        arrays.append(np.load(path))
    return arrays


# In a short dtype MLX rounds between the steps of a function, and what comes out may be far from the function (a running sum, a tie of
# codes). So the values expected there are MLX's in float32 on the same operands, and ours are one rounding of the result from them, which
# is half a unit in the last place: relative to the largest magnitude (which may stand below the next power of two) at most UNIT. What is
# allowed is twice that, for results of which one is computed from another that is rounded. HUGE: what a short dtype rounds to infinity.
UNIT = {"float16": 2**-11, "bfloat16": 2**-8}
HUGE = {"float16": 65520.0}


def farthest(results, expected, dtype):
    """The largest difference, relative to the largest magnitude of a result (of at least 1)."""
    worst = 0.0
    for a, b in zip(results, expected):
        if a.size != b.size:
            return math.inf
        a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        same |= np.isinf(a) & (np.abs(b) >= HUGE.get(dtype, math.inf)) & (np.sign(a) == np.sign(b))
        if not same.all():
            magnitude = max(1.0, np.abs(b[np.isfinite(b) & np.isfinite(a)]).max(initial=0))
            with np.errstate(invalid="ignore"):
                difference = float(np.abs(a - b)[~same].max() / magnitude)
            worst = max(worst, difference if difference == difference else math.inf)
    return worst


def compared(peers, name, dtype, ours, theirs, expected):
    """How far ours are from the expected values; in short dtypes also how far MLX's own are. Or why nothing is compared."""
    how = peers.COMPARE.get(name, lambda results: results)
    if isinstance(how, str):
        return {"not_compared": how}
    if dtype not in UNIT:
        return {"difference": farthest(how(ours), how(expected), dtype), "tolerance": peers.LOOSER.get(name, peers.TOLERANCE)}
    units = peers.UNITS.get(name, 2)
    result = {"difference": farthest(how(ours), how(expected), dtype), "tolerance": units * UNIT[dtype]}
    return result | ({"mlx_difference": farthest(how(theirs), how(expected), dtype)} if theirs else {})


def made(mx, peer, operands, p):
    """The results of a function of MLX as arrays of NumPy."""
    results = peer(mx, operands, p)
    results = results if isinstance(results, (tuple, list)) else [results]
    return [np.array(m.astype(mx.float32) if m.dtype == mx.bfloat16 else m) for m in results]


def parameters(text):
    """Of "eps=1e-6, k=4 integer 1..8": {"eps": 1e-6, "k": 4}."""
    return {k: float(v) for k, v in (part.split()[0].split("=") for part in text.split(",") if part.strip())}


def run_row(server, row, args, peers, folder, mx):
    opened = server.ask(f"open {row['name']} {args.dtype} {args.elements}")
    result = {"name": row["name"], "group": row["group"]}
    if "error" in opened:
        return result | {"error": opened["error"]}
    result |= opened
    p = parameters(row["parameters"])
    for path in os.listdir(folder):
        os.remove(os.path.join(folder, path))
    kept = server.ask(f"save {folder}")
    if "error" in kept:
        return result | kept
    arrays = saved(folder, "in")
    functions = {}
    peer = peers.MLX.get(row["name"])
    if peer:
        dtypes = [getattr(mx, {"bool": "bool_"}.get(o["dtype"], o["dtype"])) for o in opened["operands"]]
        on_device = [mx.array(a).astype(d) for a, d in zip(arrays, dtypes)]
        mx.eval(on_device)
        compiled = mx.compile(lambda *a: peer(mx, list(a), p))
        functions["mlx"] = lambda: mx.eval(peer(mx, on_device, p))
        functions["mlx_compiled"] = lambda: mx.eval(compiled(*on_device))
    peer_np = peers.NUMPY.get(row["name"])
    if peer_np and args.dtype == "float32":
        functions["numpy"] = lambda: peer_np(np, arrays, p)
    slow = set()
    for who in list(functions):
        try:
            functions[who]()
            start = time.perf_counter()
            functions[who]()
            if time.perf_counter() - start > 0.5:
                slow.add(who)
        except Exception as e:  # a peer without this function says so; the row stays
            result.setdefault("refused", {})[who] = f"{type(e).__name__}: {str(e)[:200]}"
            del functions[who]
    if peer:
        theirs = made(mx, peer, on_device, p) if "mlx" in functions else None
        if args.dtype == "float32":
            expected = theirs
        else:
            expected = made(mx, peer, [a.astype(mx.float32) if a.dtype in (mx.float16, mx.bfloat16) else a for a in on_device], p)
        if expected:
            result |= compared(peers, row["name"], args.dtype, saved(folder, "out"), theirs, expected)
    runs = {who: [] for who in ["zmlx", *functions]}
    for r in range(args.rounds):
        order = list(runs)
        for who in order if r % 2 == 0 else reversed(order):
            if who in slow and r > 0:
                continue  # one round says enough
            if who == "zmlx":
                runs[who].append(server.ask(f"time {args.seconds}")["seconds"])
            else:
                runs[who].append(timed(functions[who], args.seconds))
    result["seconds"] = runs
    best = result["best"] = {who: min(v) for who, v in runs.items()}
    mlx = min((v for w, v in best.items() if w.startswith("mlx")), default=None)
    if mlx:
        result["over_mlx"] = mlx / best["zmlx"]
    if "numpy" in best:
        result["over_numpy"] = best["numpy"] / best["zmlx"]
    size = {"bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2, "bfloat16": 2, "uint64": 8, "int64": 8}
    moved = opened["bytes_out"] + sum(math.prod(o["shape"]) * size.get(o["dtype"], 4) for o in opened["operands"])
    result["gb_s"] = moved / best["zmlx"] / 1e9
    return result


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="build/benchmarks/bench_catalog")
    parser.add_argument("--rows", default="catalog", choices=["catalog", "arrays"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--elements", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--only", nargs="*", help="names of rows; in a capsule that exists they take the places of the old ones")
    parser.add_argument("--capsule")
    args = parser.parse_args()

    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    server = Server(args.server)
    peers = array_functions if args.rows == "arrays" else peer_functions
    rows = server.ask("list arrays" if args.rows == "arrays" else "list")
    names = [r["name"] for r in rows]
    if unknown := sorted((set(peers.MLX) | set(peers.NUMPY)) - set(names)):
        sys.exit(f"{peers.__name__}.py: the server has no rows {', '.join(unknown)}")
    rows = [r for r in rows if not args.only or r["name"].removeprefix("arrays.") in args.only]
    bandwidth = [server.ask("bandwidth")]
    results = []
    print(f"{'row':32} {'zmlx us':>10} {'MLX us':>10} {'NumPy us':>10} {'x MLX':>7} {'x NumPy':>7} {'GB/s':>6} difference")
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            r = run_row(server, row, args, peers, folder, mx)
        results.append(r)
        if "error" in r:
            print(f"{r['name']:32} {r['error']}")
            continue
        m = r["best"]
        mlx = min((v for k, v in m.items() if k.startswith("mlx")), default=None)
        cell = lambda v: f"{v * 1e6:10.1f}" if v else f"{'':>10}"
        ratio = lambda k: f"{r[k]:7.2f}" if k in r else f"{'':>7}"
        times = f"{cell(m['zmlx'])} {cell(mlx)} {cell(m.get('numpy'))}"
        value = f"{r['difference']:.1e}" if "difference" in r else "not compared" if "not_compared" in r else ""
        print(f"{r['name']:32} {times} {ratio('over_mlx')} {ratio('over_numpy')} {r['gb_s']:6.1f} {value}", flush=True)
    bandwidth.append(server.ask("bandwidth"))
    machine = server.ask("machine")
    server.close()
    if args.only and args.capsule and os.path.exists(args.capsule):
        with open(args.capsule) as f:
            old = json.load(f)
        fresh = {r["name"]: r for r in results}
        kept = [fresh.pop(r["name"], r) for r in old["rows"]]
        places = {name: i for i, name in enumerate(names)}
        results = sorted([r for r in kept + list(fresh.values()) if r["name"] in places], key=lambda r: places[r["name"]])
        bandwidth = old["bandwidth_gb_s"] + bandwidth
    summary = {
        "rows": len(results),
        "rows_beside_mlx": sum("over_mlx" in r for r in results),
        "geomean_over_mlx": geomean(r["over_mlx"] for r in results if "over_mlx" in r),
        "geomean_over_numpy": geomean(r["over_numpy"] for r in results if "over_numpy" in r),
        "below_mlx": [r["name"] for r in results if r.get("over_mlx", 1) < 1],
        "without_peer": [r["name"] for r in results if "over_mlx" not in r],
        "other_values": [r["name"] for r in results if r.get("difference", 0) > r.get("tolerance", 0)],
    }
    print(json.dumps(summary, indent=1))
    if summary["other_values"]:
        sys.exit(f"values differ from MLX's: {', '.join(summary['other_values'])}")
    if not args.capsule:
        return
    from importlib.metadata import version

    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    capsule = {
        "kind": args.rows,
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "command": " ".join(["benchmarks/peers/beside_mlx.py", *[a for a in sys.argv[1:]]]),
        "machine": {"cpu": cpu, "cores": os.cpu_count(), **machine},
        "peers": {"mlx": version("mlx"), "numpy": np.__version__},
        "dtype": args.dtype,
        "elements": args.elements,
        "load": os.getloadavg()[0],  # other work on the machine slows both libraries, but not evenly
        "bandwidth_gb_s": bandwidth,
        "summary": summary,
        "rows": results,
    }
    capsules.write(args.capsule, capsule)


if __name__ == "__main__":
    main()
