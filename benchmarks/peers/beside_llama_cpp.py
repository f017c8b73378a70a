#!/usr/bin/env python3
"""Decode and prefill of zmlx beside llama.cpp, same shape, same run, interleaved.

Makes a GGUF file of random Q4_0 blocks for the shapes of a config.json (qwen3_moe), a checkpoint of random weights for zmlx (zmlx synth) if
there is none, and times both in ABBA order. Needs: pip install llama-cpp-python gguf numpy (llama-cpp-python builds llama.cpp for this
machine). Writes a capsule with all raw runs.

  benchmarks/peers/beside_llama_cpp.py --config benchmarks/configs/Qwen3-30B-A3B-4bit-8layers --work /tmp/peers --threads 2 \
      --capsule out.json
"""
import ctypes
import os
import sys
import time

import numpy as np

import beside


def make_gguf(config, path):
    """Random Q4_0 weights; norms are ones, the router float32, as llama.cpp's own conversion leaves them."""
    import gguf

    if config["model_type"] != "qwen3_moe":
        sys.exit(f"{config['model_type']}: only qwen3_moe is written so far")
    hidden, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    dim, experts, inner, vocab = config["head_dim"], config["num_experts"], config["moe_intermediate_size"], config["vocab_size"]
    w = gguf.GGUFWriter(path + ".part", "qwen3moe", use_temp_file=False)
    w.add_block_count(config["num_hidden_layers"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(dim)
    w.add_value_length(dim)
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(config["rope_theta"])
    w.add_expert_count(experts)
    w.add_expert_used_count(config["num_experts_per_tok"])
    w.add_expert_feed_forward_length(inner)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("none")
    rng = np.random.default_rng(1)

    def q4(name, *shape):
        blocks = int(np.prod(shape)) // 32
        data = rng.integers(0, 256, size=(blocks, 18), dtype=np.uint8)
        scale = (1.0 / (4.6 * np.sqrt(shape[-1]))) * rng.uniform(0.5, 1.5, size=blocks)
        data[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(blocks, 2)
        data = data.reshape(*shape[:-1], shape[-1] // 32 * 18)
        w.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def ones(name, n):
        w.add_tensor(name, np.ones(n, dtype=np.float32))

    q4("token_embd.weight", vocab, hidden)
    ones("output_norm.weight", hidden)
    q4("output.weight", vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        b = f"blk.{i}."
        ones(b + "attn_norm.weight", hidden)
        ones(b + "ffn_norm.weight", hidden)
        ones(b + "attn_q_norm.weight", dim)
        ones(b + "attn_k_norm.weight", dim)
        q4(b + "attn_q.weight", heads * dim, hidden)
        q4(b + "attn_k.weight", kv * dim, hidden)
        q4(b + "attn_v.weight", kv * dim, hidden)
        q4(b + "attn_output.weight", hidden, heads * dim)
        w.add_tensor(b + "ffn_gate_inp.weight", rng.normal(0, 1 / np.sqrt(hidden), size=(experts, hidden)).astype(np.float32))
        q4(b + "ffn_gate_exps.weight", experts, inner, hidden)
        q4(b + "ffn_up_exps.weight", experts, inner, hidden)
        q4(b + "ffn_down_exps.weight", experts, hidden, inner)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.rename(path + ".part", path)


class Llama:
    """llama.cpp through its C API: prompt of random ids, then greedy decoding."""

    def __init__(self, path, threads, context):
        import llama_cpp as l

        self.l = l
        l.llama_backend_init()
        quiet = l.llama_log_callback(lambda *_: None)
        self.quiet = quiet
        l.llama_log_set(quiet, ctypes.c_void_p(0))
        m = l.llama_model_default_params()
        m.n_gpu_layers = 0
        self.model = l.llama_model_load_from_file(path.encode(), m)
        if not self.model:
            sys.exit(f"{path}: llama.cpp can't load it")
        c = l.llama_context_default_params()
        c.n_ctx, c.n_batch, c.n_ubatch = context, 512, 512
        c.n_threads = c.n_threads_batch = threads
        self.context = l.llama_init_from_model(self.model, c)
        self.vocab = l.llama_vocab_n_tokens(l.llama_model_get_vocab(self.model))
        self.title, self.threads = f"llama-cpp-python {l.__version__}", threads

    def run(self, prompt, decode):
        l = self.l
        l.llama_memory_clear(l.llama_get_memory(self.context), True)
        ids = (l.llama_token * len(prompt))(*prompt)
        t = time.perf_counter()
        if l.llama_decode(self.context, l.llama_batch_get_one(ids, len(prompt))):
            sys.exit("llama.cpp: decode failed")
        logits = np.ctypeslib.as_array(l.llama_get_logits_ith(self.context, -1), shape=(self.vocab,))
        token = int(logits.argmax())
        prefill = len(prompt) / (time.perf_counter() - t)
        t = time.perf_counter()
        for _ in range(decode):
            one = (l.llama_token * 1)(token)
            if l.llama_decode(self.context, l.llama_batch_get_one(one, 1)):
                sys.exit("llama.cpp: decode failed")
            logits = np.ctypeslib.as_array(l.llama_get_logits_ith(self.context, -1), shape=(self.vocab,))
            token = int(logits.argmax())
        return prefill, decode / (time.perf_counter() - t)


def main():
    a = beside.parser(__doc__).parse_args()
    name, config, model = beside.checkpoint(a)
    gguf_path = os.path.join(a.work, name + ".q4_0.gguf")
    if not os.path.exists(gguf_path):
        make_gguf(config, gguf_path)
    beside.measure(a, name, model, "llama_cpp", Llama(gguf_path, a.threads, a.prompt + a.decode + 64))


if __name__ == "__main__":
    main()
