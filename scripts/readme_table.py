#!/usr/bin/env python3
"""Writes the measured table of README.md from the capsules in benchmarks/capsules (docs/capsules.md). --check only compares."""
import glob
import json
import os
import sys

sys.dont_write_bytecode = True  # nothing but the page is written
import pages  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BEGIN, END = "<!-- table: made by scripts/readme_table.py from benchmarks/capsules -->", "<!-- end of table -->"


def rate(v):
    return f"{v:,.0f}" if v >= 100 else f"{v:.1f}"


def peer_rows(c):
    names = {"zmlx_patched": "zmlx, patched", "zmlx_stock": "zmlx, stock", "zmlx_int8": "zmlx, int8 activations",
             "llama_cpp": c["peer"] + ", Q4_0", "mlx_lm": c["peer"], "ik_llama_cpp": "ik_llama.cpp, Q4_0"}
    for who, m in c["result"]["median"].items():
        share = f"{m['share_of_bandwidth']:.0%}" if "share_of_bandwidth" in m else ""
        model = f"{c['result']['config']}, {c['result']['threads']} threads"
        yield [model, names[who], rate(m["decode_tok_s"]), rate(m["prefill_tok_s"]), share]


def validate_rows(c):
    d, p = c["result"]["decode"], c["result"]["prefill"]
    for who in ("patched", "stock"):
        share = f"{c['result']['share_of_bandwidth']:.0%}" if who == "patched" else ""
        model = f"{c['model']['name']}, {c['model']['threads']} threads"
        yield [model, "zmlx, " + who, rate(d[who + "_tok_s"]["median"]), rate(p[who + "_tok_s"]["median"]), share]


def table():
    rows, capsules = [], []
    for path in sorted(glob.glob(os.path.join(TOP, "benchmarks", "capsules", "*.json"))):
        with open(path) as f:
            c = json.load(f)
        make = {"peer": peer_rows, "validate": validate_rows}.get(c["kind"])
        if not make:
            continue
        m = c["machine"]
        rows += [[f"{m['cpu'].replace('(R)', '').replace(' Processor', '')}, {m['isa']}", *r] for r in make(c)]
        capsules.append(f"`{os.path.basename(path)}`")
    lines = ["| machine | model | engine | decode tok/s | prompt tok/s | of read bandwidth |", "|---|---|---|---:|---:|---:|"]
    lines += ["| " + " | ".join(r) + " |" for r in rows]
    return "\n".join(lines + [""] + ["Capsules: " + ", ".join(capsules) + "."]) if rows else "No capsules yet."


def main():
    path = os.path.join(TOP, "README.md")
    pages.publish(path, pages.between(path, BEGIN, END, table()), "--check" in sys.argv[1:], "scripts/readme_table.py")


if __name__ == "__main__":
    main()
