#!/usr/bin/env python3
"""Fused chains and kernels of rows on operands beyond the caches, beside what memory can do in the same process.

For each chain of benchmarks/chains.c (compiled by zm_compile) and each chosen row of the catalog: one call and one pass of streams in
turn, --rounds times. A pass reads and writes as many arrays as the row does (the nearest that there are; "reads" alone where results are
small; 1.25 reads: one array of floats and one of bytes), by all cores without arithmetic, in the way that was fastest of eight before, by
medians: by stores past the caches or plain ones, with or without asking for lines ahead, line by line or in bursts (streams.c). One pass
a turn, so that both find memory out of the caches. The share is the median of the ratios of neighbours: what else runs on the machine
slows both. GB/s are those of the fastest rounds. Bytes are those of operands and results, each once. Cycles are of one core's time stamp
counter (--ghz) an element: of the row inside the caches (arithmetic and calls), and what memory takes at the best rate. Run it on an
otherwise idle machine.
  benchmarks/memory.py --server build/benchmarks/bench_catalog --capsule benchmarks/capsules/catalog-memory.json
"""
import argparse
import datetime
import json
import math
import os
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers"))
import capsules  # noqa: E402
from server import Server  # noqa: E402

PAIRS = [(1, 0, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 1, 0), (8, 1, 0), (1, 2, 0), (3, 2, 0), (4, 3, 0), (0, 1, 1), (1, 1, 1)]
SIZES = {"bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2, "bfloat16": 2, "uint64": 8, "int64": 8}
ROWS = """exp log sigmoid tanh relu silu gelu_tanh softplus mish elu relu_grad silu_grad add mul add_bias bias_silu
softmax_lastdim log_softmax_lastdim softmax_grad logsumexp_lastdim masked_softmax scale_mask_softmax softmax_cross_entropy
softmax_cross_entropy_grad rmsnorm rmsnorm_grad rms_norm_no_weight layernorm layer_norm_no_weight residual_rmsnorm add_rms_norm
fused_add_rmsnorm rmsnorm_residual fused_add_layernorm layernorm_residual rms_norm_dropout dropout swiglu swiglu2 geglu2 bias_swiglu
silu_mul_residual depth_gate_sigmoid sum_lastdim mean_lastdim max_lastdim argmax_lastdim var_lastdim std_lastdim apply_rope
apply_rope_interleaved apply_gqa_rope cumsum_lastdim adamw_step fused_recurrent_step moe_combine dequantize_int8
dequantize_blockwise""".split()


def pair_of(read, written, thin):
    """Arrays read, written and thin ones read (a byte where others have four) that are nearest to the bytes. Memory gives more to many
    arrays than to few: a mask of bytes beside one float array is no fourth of four arrays, and has one thin array of its own."""
    if written < read / 32:
        return PAIRS[0]
    fit = [p for p in PAIRS if p[1] and p[2] == (thin > (read + written) / 16)]
    return min(fit, key=lambda p: abs(math.log((p[0] + p[2] / 4) / p[1] * written / read)))


def run(server, kind, name, args):
    verb = "chain" if kind == "chain" else "open"
    small = server.ask(f"{verb} {name} {args.dtype} {args.small}")
    if "error" in small:
        return {"name": name, "kind": kind, "error": small["error"]}
    count = max(math.prod(o["shape"]) for o in small["operands"])
    inside = min(server.ask(f"time {args.seconds / 2}")["seconds"] for _ in range(3))
    opened = server.ask(f"{verb} {name} {args.dtype} {args.elements}")
    read = sum(math.prod(o["shape"]) * SIZES.get(o["dtype"], 4) for o in opened["operands"])
    written = opened["bytes_out"]
    thin = sum(math.prod(o["shape"]) for o in opened["operands"] if SIZES.get(o["dtype"], 4) == 1) if args.dtype == "float32" else 0
    pair = pair_of(read, written, thin)
    turns = server.ask(f"turns {pair[0]} {pair[1]} {pair[2]} {args.rounds}")
    seconds, rates = turns["seconds"], turns["rates"]
    moved = (read + written) / 1e9
    share = statistics.median(moved / t / r for t, r in zip(seconds, rates))
    best = max(rates)
    gb_s = moved / min(seconds)
    return {
        "name": name,
        "kind": kind,
        "bytes_read": read,
        "bytes_written": written,
        "seconds": seconds,
        "streams": {"reads": pair[0], "writes": pair[1], "thin": pair[2], "way": turns["way"], "rates": rates, "best": best},
        "gb_s": gb_s,
        "share": share,
        "inside_seconds": inside,
        "cycles": inside * args.ghz * 1e9 * os.cpu_count() / count,
        "memory_cycles": (read + written) / best * args.ghz * os.cpu_count() / max(math.prod(o["shape"]) for o in opened["operands"]),
    }


def frequency():
    """Of the time stamp counter, as the kernel says; GHz."""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("bogomips"):
                return float(line.split(":")[1]) / 2000
    return 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="build/benchmarks/bench_catalog")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--elements", type=int, default=0, help="of the first operand (as many as fill the largest cache twice)")
    parser.add_argument("--small", type=int, default=1 << 19, help="elements of the run inside the caches")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--ghz", type=float, default=frequency())
    parser.add_argument("--only", nargs="*", help="names of chains and rows")
    parser.add_argument("--capsule")
    parser.add_argument("--add", action="store_true", help="keep the rows of the capsule that are not measured now")
    args = parser.parse_args()
    server = Server(args.server)
    machine = server.ask("machine")
    args.elements = args.elements or max(1 << 24, machine["cache_bytes"] // SIZES.get(args.dtype, 4) * 2)
    names = [("chain", c["name"]) for c in server.ask("chains")]
    names += [("row", n) for n in ROWS]
    results = []
    print(f"{'':28} {'MB':>6} {'ms':>8} {'GB/s':>6} {'of':>6} {'pair':>6} {'share':>6} {'cycles':>7}")
    for kind, name in names:
        if args.only and name not in args.only:
            continue
        r = run(server, kind, name, args)
        results.append(r)
        if "error" in r:
            print(f"{name:28} {r['error']}")
            continue
        s, total = r["streams"], r["bytes_read"] + r["bytes_written"]
        print(f"{name:28} {total / 1e6:6.0f} {min(r['seconds']) * 1e3:8.2f} {r['gb_s']:6.1f} {s['best']:6.1f} "
              f"{s['reads'] + s['thin'] / 4:g}:{s['writes']:<3} {r['share']:6.0%} {r['cycles']:7.2f}", flush=True)
    if not args.capsule:
        return
    if args.add:
        old = []
        if os.path.exists(args.capsule):
            with open(args.capsule) as f:
                old = json.load(f)["rows"]
        new = {(r["kind"], r["name"]): r for r in results}
        results = [new.pop((r["kind"], r["name"]), r) for r in old] + list(new.values())
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    capsule = {
        "kind": "memory",
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "command": " ".join(["benchmarks/memory.py", *sys.argv[1:]]),
        "machine": {"cpu": cpu, "cores": os.cpu_count(), "ghz": args.ghz, **machine},
        "dtype": args.dtype,
        "elements": args.elements,
        "load": os.getloadavg()[0],  # other work on the machine slows kernels and streams alike, but not evenly
        "rows": results,
    }
    capsules.write(args.capsule, capsule, digits=4)


if __name__ == "__main__":
    main()
