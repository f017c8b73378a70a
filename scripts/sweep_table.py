#!/usr/bin/env python3
"""Writes the tables of docs/performance.md from the capsules benchmarks/capsules/sweep-*.json (docs/capsules.md). --check only compares."""
import glob
import json
import os
import sys

sys.dont_write_bytecode = True  # nothing but the page is written
import pages  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(TOP, "docs", "performance.md")
BEGIN, END = "<!-- tables: made by scripts/sweep_table.py from benchmarks/capsules -->", "<!-- end of tables -->"


def rate(v):
    return f"{v:,.0f}" if v >= 100 else f"{v:.1f}"


def row(r):
    prompts = r["batch"] == 1 and r["depth"] <= r["prompt_tokens"]
    products = f"{r['prefill_share_of_int8_peak']:.0%}" if prompts and r["prefill_share_of_int8_peak"] else ""
    first = f"{r['first_token_seconds']:.2f} s" if "first_token_seconds" in r else ""
    loaded = f"{r['load_seconds']:.2f} s" if "first_token_seconds" in r and "load_seconds" in r else ""
    memory = f"{r['peak_memory'] / r['file_bytes']:.2f}"
    return [r["config"], r["quantization"], r["case"], rate(r["decode_tok_s"]), f"{r['share_of_bandwidth']:.0%}",
            f"{r['bytes_per_step'] / 1e6:,.0f}", rate(r["prefill_tok_s"]) if prompts else "", products, loaded, first, memory]


def section(path):
    with open(path) as f:
        c = json.load(f)
    m = c["machine"]
    bandwidth = sorted(r["read_bandwidth_gb_s"] for r in c["rows"])
    products = sorted(r["int8_peak_gmac_s"] for r in c["rows"])
    lines = [f"{m['cpu'].replace('(R)', '').replace(' Processor', '')}, {m['isa']}, {c['threads']} threads, {m['compiler']}; "
             f"`benchmarks/capsules/{os.path.basename(path)}`. Read bandwidth {bandwidth[0]:.1f} to {bandwidth[-1]:.1f} GB/s, "
             f"products of bytes {products[0]:.0f} to {products[-1]:.0f} G multiply-adds a second, both measured around each run.", "",
             "| model | weights | case | decode tok/s | of bandwidth | MB a step | prompt tok/s | of products | loaded | first token "
             "| memory / file |",
             "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    return "\n".join(lines + ["| " + " | ".join(row(r)) + " |" for r in c["rows"]])


def main():
    paths = sorted(glob.glob(os.path.join(TOP, "benchmarks", "capsules", "sweep-*.json")))
    text = pages.between(PAGE, BEGIN, END, "\n\n".join(section(p) for p in paths))
    pages.publish(PAGE, text, "--check" in sys.argv[1:], "scripts/sweep_table.py")


if __name__ == "__main__":
    main()
