"""The server of a benchmark (benchmarks/catalog.c, kernels.c): a process that answers a line with a line of JSON."""
import json
import os
import subprocess
import sys


class Server:
    def __init__(self, path):
        # Kernels are compiled at once, as they are in the long run: what is timed is not how soon that pays.
        environment = os.environ | {"ZMLX_KERNELS": "compile"}
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"the server ended at: {line}")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
