#!/usr/bin/env python3
"""Stores the digests that `zmlx kernel test` compares with: src/cli/kernel_results.c, from what the command computes here.

Usage, from the top of the project, after the tests of the catalog have passed (they compare every row with NumPy and MLX):
  scripts/make_kernel_results.py build/zmlx

A digest that changes is a change of results: docs/numerics.md says what they are.
"""
import json
import os
import subprocess
import sys

DTYPES = ("float32", "float16", "bfloat16")
HEAD = """// Digests of what the rows of the catalog give for their samples: float32, float16, bfloat16.
// Made by scripts/make_kernel_results.py.
#include "cli/kernel.h"

// clang-format off
const cli_kernel_result cli_kernel_results[] = {
"""


def main():
    run = subprocess.run([sys.argv[1], "kernel", "test", "--json"], stdout=subprocess.PIPE, check=False)
    rows = json.loads(run.stdout)["kernels"]
    path = os.path.join(os.path.dirname(__file__), "..", "src", "cli", "kernel_results.c")
    with open(path + ".new", "w") as f:
        f.write(HEAD)
        for row in rows:
            if not row["passed"] and "stored result" not in row["why"]:
                sys.exit("%s: %s" % (row["name"], row["why"]))
            f.write('    {"%s", {%s}},\n' % (row["name"], ", ".join("0x%s" % row["digests"][d] for d in DTYPES)))
        f.write("    {.name = NULL},\n};\n")
    os.rename(path + ".new", path)
    print("%d rows" % len(rows))


if __name__ == "__main__":
    main()
