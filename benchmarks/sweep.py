#!/usr/bin/env python3
"""Measures one machine: models and formats, depths, batches, one-byte activations, loading, a busy neighbour. Writes a capsule, "sweep".

Checkpoints of random weights are made with zmlx synth from benchmarks/configs where they are missing (20 GB of space for all of them, an
hour of time at most). Each case is a process of its own, `zmlx bench`, which measures the machine's bandwidth and byte products between its
runs. Leave the machine alone meanwhile; a machine that was not is seen by the ranges.

  benchmarks/sweep.py --work /tmp/checkpoints --threads 2 --capsule benchmarks/capsules/sweep-machine.json
"""
import argparse
import datetime
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers"))
import capsules  # noqa: E402

SLICE, LFM2 = "Qwen3-30B-A3B-4bit-8layers", "LFM2-8B-A1B-4bit"
LLAMA, DENSE = "Llama-3.2-1B-4bit", "Llama-3.2-1B-bf16"
FORMATS = {f"Llama-3.2-1B-{bits}bit": {"group_size": 64, "bits": bits} for bits in (3, 5, 6, 8)}
FORMATS |= {f"Llama-3.2-1B-{mode}": {"group_size": group, "bits": bits, "mode": mode}
            for mode, group, bits in (("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4))}
# Name of the case, checkpoint, options of zmlx bench, and whether another process takes a core. Depths are filled with one-byte
# activations, which is faster and changes nothing about what is read.
CASES = [("patched", SLICE, [], False), ("stock", SLICE, ["--patch", "none"], False),
         ("prompt of 512", SLICE, ["-p", "512", "--chunk", "512"], False),
         ("prompt of 128, int8", SLICE, ["--activations", "int8"], False),
         ("prompt of 512, int8", SLICE, ["-p", "512", "--chunk", "512", "--activations", "int8"], False),
         ("batch 2", SLICE, ["--batch", "2", "-p", "32"], False), ("batch 4", SLICE, ["--batch", "4", "-p", "32"], False),
         ("batch 8", SLICE, ["--batch", "8", "-p", "32"], False),
         ("batch 8, int8", SLICE, ["--batch", "8", "-p", "32", "--activations", "int8"], False),
         ("busy neighbour", SLICE, [], True),
         ("patched", LFM2, [], False), ("stock", LFM2, ["--patch", "none"], False),
         ("patched", LLAMA, [], False), ("depth 8192", LLAMA, ["--depth", "8192", "--activations", "int8"], False),
         ("depth 32768", LLAMA, ["--depth", "32768", "--activations", "int8"], False),
         ("patched", DENSE, [], False)]
CASES += [("patched", name, [], False) for name in FORMATS]
LONG = ("depth 32768",)
KEPT = ("decode_tok_s", "decode_interval", "prefill_tok_s", "prefill_interval", "bytes_per_step", "chosen_experts", "batch", "depth",
        "prompt_tokens", "read_bandwidth_gb_s", "share_of_bandwidth", "int8_peak_gmac_s", "prefill_share_of_int8_peak", "peak_memory",
        "load_seconds", "decode_runs", "prefill_runs", "bandwidth_runs")


def checkpoint(a, name):
    model = os.path.join(a.work, name)
    if os.path.exists(os.path.join(model, "config.json")):
        return model
    source = os.path.join("benchmarks", "configs", LLAMA if name in FORMATS else name)
    if name in FORMATS:
        with open(os.path.join(source, "config.json")) as f:
            config = json.load(f)
        config["quantization"] = FORMATS[name]
        config.pop("quantization_config", None)
        source = os.path.join(a.work, name + ".config")
        os.makedirs(source, exist_ok=True)
        with open(os.path.join(source, "config.json"), "w") as f:
            json.dump(config, f)
    print(f"making {model}", file=sys.stderr)
    subprocess.run([a.zmlx, "synth", source, model], check=True, stdout=subprocess.DEVNULL)
    return model


def first_token(a, model):
    """Seconds from the start of a process to its end with one token made, the file in the page cache: the best of three."""
    with open(os.path.join(a.work, "one.txt"), "w") as f:
        f.write("1 2 3\n")
    best = 1e9
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([a.zmlx, "generate", model, "--tokens-file", f.name, "--max-tokens", "1", "--temperature", "0", "--ignore-eos",
                        "--print-tokens", "--threads", str(a.threads)], check=True, capture_output=True)
        best = min(best, time.monotonic() - start)
    return best


def run(a, case):
    name, config, options, neighbour = case
    model = checkpoint(a, config)
    first = first_token(a, model) if name == "patched" else None  # before the others: from here on the file is in the page cache
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if neighbour else None
    try:
        command = [a.zmlx, "bench", model, "--threads", str(a.threads), "--runs", str(a.runs), "--json", *options]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        if busy:
            busy.kill()
    row = {"case": name, "config": config, "options": options, **{k: result[k] for k in KEPT}, "file_bytes": result["model"]["file_bytes"]}
    row["quantization"] = result["model"]["quantization"]
    if first is not None:
        row["first_token_seconds"] = first
    print(f"{config:28} {name:20} decode {row['decode_tok_s']:8.1f} tok/s, {row['share_of_bandwidth']:4.0%} of "
          f"{row['read_bandwidth_gb_s']:5.1f} GB/s; prompt {row['prefill_tok_s']:8.1f} tok/s, "
          f"{row['prefill_share_of_int8_peak']:4.0%} of {row['int8_peak_gmac_s']:5.0f} G", flush=True)
    return row, result["machine"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", required=True, help="folder for the checkpoints")
    p.add_argument("--zmlx", default="build/zmlx")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--only", help="checkpoints whose names contain this")
    p.add_argument("--long", action="store_true", help="depths whose caches take many minutes to fill, too")
    p.add_argument("--capsule", help="JSON file to write")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    rows = []
    for case in CASES:
        if (not a.only or a.only in case[1]) and (a.long or case[0] not in LONG):
            row, machine = run(a, case)
            rows.append(row)
    if not a.capsule:
        return
    command = ["benchmarks/sweep.py", "--threads", str(a.threads), "--runs", str(a.runs)] + (["--only", a.only] if a.only else [])
    created = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    head = {"schema": 1, "kind": "sweep", "created": created, "command": command, "machine": machine, "threads": a.threads}
    capsules.write(a.capsule, head | {"rows": rows})


if __name__ == "__main__":
    main()
