#!/usr/bin/env python3
"""Decode and prefill of zmlx beside ik_llama.cpp, same shape, same run, interleaved.

Takes the GGUF file that beside_llama_cpp.py makes (and makes it if there is none) and a llama-bench of ik_llama.cpp, which has to be built
from its repository (https://github.com/ikawrakow/ik_llama.cpp; cmake --build build --target llama-bench). Runs it with its flags for models
of experts: weights repacked at run time, fused experts, huge pages. Needs: pip install gguf numpy. Writes a capsule with all raw runs.

  benchmarks/peers/beside_ik_llama.py --bench ik_llama.cpp/build/bin/llama-bench --work /tmp/peers --threads 2 \
      --config benchmarks/configs/Qwen3-30B-A3B-4bit-8layers --capsule out.json
"""
import json
import os
import subprocess

import beside
from beside_llama_cpp import make_gguf

FLAGS = ["-rtr", "1", "-fmoe", "1", "-fa", "1", "-thp", "1"]


class Bench:
    def __init__(self, program, path, threads, vocab):
        self.program, self.path, self.threads, self.vocab = program, path, threads, vocab
        self.title = "ik_llama.cpp " + " ".join(FLAGS)

    def run(self, prompt, decode):
        command = [self.program, "-m", self.path, "-t", str(self.threads), "-p", str(len(prompt)), "-n", str(decode), "-r", "1",
                   "-o", "json", *FLAGS]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        tests = json.loads(out[out.index("["):])  # a line about the load may stand before
        rate = {bool(t["n_gen"]): float(t["avg_ts"]) for t in tests}
        return rate[False], rate[True]


def main():
    p = beside.parser(__doc__)
    p.add_argument("--bench", required=True, help="llama-bench of ik_llama.cpp")
    a = p.parse_args()
    name, config, model = beside.checkpoint(a)
    gguf_path = os.path.join(a.work, name + ".q4_0.gguf")
    if not os.path.exists(gguf_path):
        make_gguf(config, gguf_path)
    beside.measure(a, name, model, "ik_llama_cpp", Bench(a.bench, gguf_path, a.threads, config["vocab_size"]))


if __name__ == "__main__":
    main()
