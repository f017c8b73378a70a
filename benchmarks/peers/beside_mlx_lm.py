#!/usr/bin/env python3
"""Decode and prefill of zmlx beside MLX on the CPU, the same checkpoint, same run, interleaved.

Makes a checkpoint of random weights (zmlx synth) for the shapes of a config.json if there is none; mlx-lm opens the same files. Needs:
pip install mlx-lm (on Linux with mlx[cpu]). Writes a capsule with all raw runs.
MLX's CPU kernels for quantized weights may take seconds a token: begin with --prompt 16 --decode 4 --rounds 1.

  benchmarks/peers/beside_mlx_lm.py --config benchmarks/configs/Llama-3.2-1B-4bit --work /tmp/peers --threads 2 --capsule out.json
"""
import pathlib
import time

import beside


class MlxLm:
    """mlx-lm's model as its generate_step drives it: logits of the prompt's last token only, then greedy decoding."""

    def __init__(self, path):
        import mlx.core as mx
        import mlx_lm
        from mlx_lm.models.cache import make_prompt_cache
        from mlx_lm.utils import load_model

        self.mx, self.make_cache = mx, make_prompt_cache
        mx.set_default_device(mx.cpu)
        self.model, config = load_model(pathlib.Path(path))
        self.vocab = config["vocab_size"]
        self.title = f"mlx-lm {mlx_lm.__version__}, MLX CPU {mx.__version__}"
        self.threads = None  # MLX chooses; there is no setting

    def step(self, ids, cache):
        logits = self.model(self.mx.array([ids]), cache=cache)
        return int(self.mx.argmax(logits[0, -1]).item())

    def run(self, prompt, decode):
        cache = self.make_cache(self.model)
        t = time.perf_counter()
        if len(prompt) > 1:
            self.model(self.mx.array([prompt[:-1]]), cache=cache)
            self.mx.eval([c.state for c in cache])
        token = self.step(prompt[-1:], cache)
        prefill = len(prompt) / (time.perf_counter() - t)
        t = time.perf_counter()
        for _ in range(decode):
            token = self.step([token], cache)
        return prefill, decode / (time.perf_counter() - t)


def main():
    a = beside.parser(__doc__).parse_args()
    name, _, model = beside.checkpoint(a)
    beside.measure(a, name, model, "mlx_lm", MlxLm(model))


if __name__ == "__main__":
    main()
