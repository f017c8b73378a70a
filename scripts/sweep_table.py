#!/usr/bin/env python3
"""Writes the tables of docs/performance.md from the capsules benchmarks/capsules/sweep-*.json (docs/capsules.md). --check only compares."""
import glob
import json
import os
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(TOP, "docs", "performance.md")
BEGIN, END = "<!-- tables: made by scripts/sweep_table.py from benchmarks/capsules -->", "<!-- end of tables -->"


def rate(v):
    return f"{v:,.0f}" if v >= 100 else f"{v:.1f}"


def row(r):
    prompts = r["batch"] == 1 and r["depth"] <= r["prompt_tokens"]
    products = f"{r['prefill_share_of_int8_peak']:.0%}" if prompts and r["prefill_share_of_int8_peak"] else ""
    first = f"{r['first_token_seconds']:.2f} s" if "first_token_seconds" in r else ""
    memory = f"{r['peak_memory'] / r['file_bytes']:.2f}"
    return [r["config"], r["quantization"], r["case"], rate(r["decode_tok_s"]), f"{r['share_of_bandwidth']:.0%}",
            f"{r['bytes_per_step'] / 1e6:,.0f}", rate(r["prefill_tok_s"]) if prompts else "", products, first, memory]


def section(path):
    with open(path) as f:
        c = json.load(f)
    m = c["machine"]
    bandwidth = sorted(r["read_bandwidth_gb_s"] for r in c["rows"])
    products = sorted(r["int8_peak_gmac_s"] for r in c["rows"])
    lines = [f"{m['cpu'].replace('(R)', '').replace(' Processor', '')}, {m['isa']}, {c['threads']} threads, {m['compiler']}; "
             f"`benchmarks/capsules/{os.path.basename(path)}`. Read bandwidth {bandwidth[0]:.1f} to {bandwidth[-1]:.1f} GB/s, "
             f"products of bytes {products[0]:.0f} to {products[-1]:.0f} G multiply-adds a second, both measured around each run.", "",
             "| model | weights | case | decode tok/s | of bandwidth | MB a step | prompt tok/s | of products | first token "
             "| memory / file |",
             "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    return "\n".join(lines + ["| " + " | ".join(row(r)) + " |" for r in c["rows"]])


def main():
    with open(PAGE) as f:
        text = f.read()
    if BEGIN not in text or END not in text:
        sys.exit(f"docs/performance.md: '{BEGIN}' or '{END}' is missing")
    head, rest = text.split(BEGIN, 1)
    paths = sorted(glob.glob(os.path.join(TOP, "benchmarks", "capsules", "sweep-*.json")))
    new = head + BEGIN + "\n" + "\n\n".join(section(p) for p in paths) + "\n" + END + rest.split(END, 1)[1]
    if "--check" in sys.argv[1:]:
        if new != text:
            sys.exit("docs/performance.md: the tables are not what the capsules say: run scripts/sweep_table.py")
        return
    with open(PAGE + ".part", "w") as f:
        f.write(new)
    os.rename(PAGE + ".part", PAGE)


if __name__ == "__main__":
    main()
