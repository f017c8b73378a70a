"""What beside_llama_cpp.py and beside_mlx_lm.py share: their options, the checkpoint of zmlx, rounds in ABBA order, the capsule.

A peer is an object with `title` ("llama-cpp-python 0.3.36"), `threads`, `vocab` and run(prompt ids, tokens to decode), which gives prompt
tokens a second and decoded tokens a second.
"""
import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import sys

KEPT = ("prefill_tok_s", "decode_tok_s", "read_bandwidth_gb_s", "share_of_bandwidth", "int8_peak_gmac_s", "prefill_share_of_int8_peak")
# Ways of zmlx, and their options. int8: one-byte activations, as the peers have them.
WAYS = {"zmlx_patched": ["--patch", "all"], "zmlx_stock": ["--patch", "none"], "zmlx_int8": ["--patch", "all", "--activations", "int8"]}


def parser(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True, help="folder with config.json")
    p.add_argument("--work", required=True, help="folder for the checkpoints (a few GB)")
    p.add_argument("--zmlx", default="build/zmlx")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--prompt", type=int, default=128)
    p.add_argument("--decode", type=int, default=48)
    p.add_argument("--rounds", type=int, default=6)
    p.add_argument("--capsule", help="JSON file to write; zmlx bench --compare reads it")
    return p


def checkpoint(a):
    """Name and configuration, and the folder of a checkpoint of random weights, made if it is not there."""
    name = os.path.basename(os.path.normpath(a.config))
    with open(os.path.join(a.config, "config.json")) as f:
        config = json.load(f)
    os.makedirs(a.work, exist_ok=True)
    model = os.path.join(a.work, name)
    if not os.path.exists(os.path.join(model, "config.json")):
        subprocess.run([a.zmlx, "synth", a.config, model], check=True)
    return name, config, model


def zmlx_run(a, model, options):
    command = [a.zmlx, "bench", model, "--threads", str(a.threads), "--prompt-tokens", str(a.prompt), "--decode-tokens", str(a.decode),
               "--runs", "1", "--json", *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(a, name, model, key, peer):
    """Times the peer (called `key` in the capsule) and zmlx in turns, prints a table and writes the capsule."""
    draw = random.Random(2)
    prompt = [draw.randrange(peer.vocab) for _ in range(a.prompt)]
    peer.run(prompt, 4)  # warm
    runs = {key: [], **{way: [] for way in WAYS}}
    for r in range(a.rounds):
        for who in ("peer", "zmlx", "zmlx", "peer") if r % 2 == 0 else ("zmlx", "peer", "peer", "zmlx"):
            if who == "peer":
                prefill, decode = peer.run(prompt, a.decode)
                runs[key].append({"prefill_tok_s": prefill, "decode_tok_s": decode})
            else:
                turn = len(runs["zmlx_stock"]) % len(WAYS)  # the first one finds the peer's caches
                for kind in (list(WAYS) * 2)[turn : turn + len(WAYS)]:
                    last = zmlx_run(a, model, WAYS[kind])
                    runs[kind].append({k: last[k] for k in KEPT})
        print(f"round {r + 1}/{a.rounds}: " + ", ".join(f"{k} {v[-1]['decode_tok_s']:.1f} tok/s" for k, v in runs.items()), file=sys.stderr)
    median = {k: {f: statistics.median(x[f] for x in v) for f in v[0]} for k, v in runs.items()}
    print(f"{'':14} decode tok/s  prefill tok/s  share of bandwidth")
    for k, v in median.items():
        share = f"{v['share_of_bandwidth']:.0%}" if "share_of_bandwidth" in v else ""
        print(f"{k:14} {v['decode_tok_s']:12.1f} {v['prefill_tok_s']:14.1f}  {share}")
    if a.capsule:
        result = {"config": name, "threads": a.threads, "engine_threads": {key: peer.threads}, "prompt_tokens": a.prompt,
                  "decode_tokens": a.decode, "median": median, "runs": runs,
                  f"patched_over_{key}": median["zmlx_patched"]["decode_tok_s"] / median[key]["decode_tok_s"]}
        write_capsule(a, key, peer, last, result)


def write_capsule(a, key, peer, last, result):
    command = [os.path.join("benchmarks", "peers", os.path.basename(sys.argv[0])), "--config", a.config, "--threads", str(a.threads),
               "--prompt", str(a.prompt), "--decode", str(a.decode), "--rounds", str(a.rounds)]
    capsule = {"schema": 1, "kind": "peer", "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
               "command": command, "machine": last["machine"], "model": last["model"], "peer": peer.title, "engines": {key: peer.title},
               "result": result}
    with open(a.capsule + ".part", "w") as f:
        json.dump(capsule, f, indent=1)
        f.write("\n")
    os.rename(a.capsule + ".part", a.capsule)
