#!/usr/bin/env python3
"""Makes small checkpoints and what mlx-lm computes with them, for tests/test_models.c.

    python3 scripts/make_oracles.py SOURCES [NAME]...  # needs: pip install 'mlx[cpu]' mlx-lm; without names: all

SOURCES is a folder that holds trained checkpoints of the families (lfm2-mxfp8, qwen3-nvfp4, with their tokenizer). They are dequantized,
cut to a few layers and the frequent tokens, and quantized again in affine formats. All other checkpoints are random and tiny: they
exist for the corners of the configuration that trained ones do not reach. Results go to checkpoints/NAME and
tests/oracles/NAME.{safetensors,json}:

    tN.tokens  int32 [n]          token ids
    tN.logits  float32 [4, vocab] logits at the last four positions; all float parameters cast to float32
    tN.nll     float32 [n - 1]    negative log likelihood of token i + 1
    tN.greedy  int32 [g]          greedy continuation
    tN.margin  float32 [g]        best minus second-best logit at each of those steps

The JSON file has the spread of the logits and the error of MLX's own run in the checkpoint's dtype.
"""
import json
import math
import shutil
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model, load_tokenizer, save_model, save_config

mx.set_default_device(mx.cpu)
TOP = Path(__file__).resolve().parent.parent
KEEP, GREEDY, VOCAB = 4, 24, 1536
TEXTS = [
    "The lamp had burned low, and the captain sat with his chin upon his hand, listening to the rain. \"We shall not see "
    "them before the morning,\" he said at last; and nobody answered him, for nobody believed it.",
    "It is a truth which every traveller learns, that the shortest road upon the map is seldom the shortest upon the ground.",
]


def affine(bits, group_size):
    return {"bits": bits, "group_size": group_size, "mode": "affine"}


def floats(mode):
    bits, group_size = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}[mode]
    return {"bits": bits, "group_size": group_size, "mode": mode}


def wanted(name):
    return not sys.argv[2:] or name in sys.argv[2:]


def model_class(config):
    import importlib
    arch = importlib.import_module("mlx_lm.models." + config["model_type"].replace("mistral", "llama"))
    return arch.Model(arch.ModelArgs.from_dict(config))


def cast(model, dtype):
    keep = getattr(model, "cast_predicate", lambda _: True)
    def one(path, value):
        return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) and keep(path) else value
    model.load_weights([(k, one(k, v)) for k, v in tree_flatten(model.parameters())])


def quantize(model, config, default, overrides):
    """default: format of all matrices; overrides: [(suffix or None, format or False)], the last that fits counts."""
    if default is None:
        return
    table = dict(default)
    def predicate(path, module):
        if not hasattr(module, "to_quantized"):
            return False
        chosen = default
        for suffix, form in overrides:
            if path.endswith(suffix):
                chosen = form
        if chosen is not False and module.weight.shape[-1] % chosen["group_size"] != 0:
            chosen = False
        if chosen is not default:
            table[path] = chosen
        return chosen
    nn.quantize(model, class_predicate=predicate)
    config["quantization"] = config["quantization_config"] = table


def logits_of(model, tokens):
    return model(mx.array(tokens)[None])[0].astype(mx.float32)


def nll_of(logits, tokens):
    logp = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return -mx.take_along_axis(logp[:-1], mx.array(tokens[1:])[:, None], axis=-1)[:, 0]


def greedy_of(model, tokens, count):
    cache = make_prompt_cache(model)
    row = model(mx.array(tokens)[None], cache=cache)[0, -1].astype(mx.float32)
    ids, margins = [], []
    for _ in range(count):
        best = mx.sort(row)[-2:]
        ids.append(int(mx.argmax(row)))
        margins.append(float(best[1] - best[0]))
        row = model(mx.array([[ids[-1]]]), cache=cache)[0, -1].astype(mx.float32)
    return ids, margins


def rms(x):
    return float(mx.sqrt(mx.mean(x * x)))


def oracle(name, folder, prompts, dtype_name):
    own, _ = load_model(folder)
    exact, _ = load_model(folder)
    cast_all = lambda v: v.astype(mx.float32) if mx.issubdtype(v.dtype, mx.floating) else v
    exact.update(tree_map(cast_all, exact.parameters()))
    tensors, report = {}, {}
    for i, (text, tokens) in enumerate(prompts):
        t = f"t{i}"
        a, b = logits_of(exact, tokens), logits_of(own, tokens)
        nll, nll_own = nll_of(a, tokens), nll_of(b, tokens)
        ids, margins = greedy_of(exact, tokens, GREEDY)
        tensors[f"{t}.tokens"] = mx.array(tokens, dtype=mx.int32)
        tensors[f"{t}.logits"] = a[-KEEP:]
        tensors[f"{t}.nll"] = nll
        tensors[f"{t}.greedy"] = mx.array(ids, dtype=mx.int32)
        tensors[f"{t}.margin"] = mx.array(margins, dtype=mx.float32)
        report[t] = {
            "tokens": len(tokens),
            "mean_nll_float32": round(float(mx.mean(nll)), 5),
            f"mean_nll_{dtype_name}": round(float(mx.mean(nll_own)), 5),
            f"{dtype_name}_rms_error": rms(a - b),
            f"{dtype_name}_rms_error_last4": rms((a - b)[-KEEP:]),
            "logit_std": float(mx.std(a)),
        }
        if text:
            report[t]["text"] = text
    out = TOP / "tests" / "oracles"
    mx.save_safetensors(str(out / f"{name}.safetensors"), tensors, metadata={"format": "mlx"})
    import mlx_lm
    body = {"model": name, "reference": f"mlx-lm {mlx_lm.__version__} on mlx {mx.__version__}, CPU", "kept_positions": KEEP,
            "greedy_tokens": GREEDY, "texts": report}
    (out / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir() if not f.is_symlink())
    errors = {t: (round(r[f"{dtype_name}_rms_error"], 5), round(r["logit_std"], 3)) for t, r in report.items()}
    print(f"{name}: {size / 1e6:.2f} MB,", errors)


def save(name, model, config):
    folder = TOP / "checkpoints" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_model(folder, model, donate_model=False)
    save_config(config, config_path=folder / "config.json")
    return folder


def trained(sources, source, name, default, overrides=(), layers=None, change=None):
    if not wanted(name):
        return
    model, config = load_model(sources / source)
    def dense(module):
        if not isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            return module
        w = mx.dequantize(module.weight, module.scales, getattr(module, "biases", None), group_size=module.group_size, bits=module.bits,
                          mode=module.mode).astype(mx.bfloat16)
        plain = nn.Embedding(*w.shape) if isinstance(module, nn.QuantizedEmbedding) else nn.Linear(w.shape[1], w.shape[0], bias=False)
        plain.weight = w
        return plain
    model.update_modules(tree_map(dense, model.leaf_modules(), is_leaf=nn.Module.is_module))
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    weights = dict(tree_flatten(model.parameters()))
    config["vocab_size"] = VOCAB  # the frequent tokens: most of such a small model would be its embedding
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:VOCAB]
    if layers:
        config["num_hidden_layers"] = layers
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:layers]
        if config.get("full_attn_idxs") is not None:
            config["full_attn_idxs"] = [i for i in config["full_attn_idxs"] if i < layers]
        weights = {k: v for k, v in weights.items() if not k.startswith("model.layers.") or int(k.split(".")[2]) < layers}
    if change:
        change(config, weights)
    model = model_class(config)
    model.load_weights(list(weights.items()))
    quantize(model, config, default, overrides)
    folder = save(name, model, config)
    tokenizer = load_tokenizer(sources / source)
    tokens = lambda text: [i for i in tokenizer.encode(text, add_special_tokens=False) if i < VOCAB]
    oracle(name, folder, [(None, tokens(t)) for t in TEXTS], "bfloat16")


def loosen(folder):
    """Rewrites a checkpoint in the layout of its Hugging Face original: one tensor an expert, convolutions [C, 1, L]."""
    weights = {}
    for name, w in mx.load(str(folder / "model.safetensors")).items():
        if "switch_mlp" in name:
            for e in range(w.shape[0]):
                one = name.replace("switch_mlp", f"experts.{e}")
                if "feed_forward" in one:
                    for new, old in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
                        one = one.replace(old, new)
                weights[one] = w[e]
        else:
            weights[name] = w.transpose(0, 2, 1) if name.endswith("conv.conv.weight") else w
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    index = folder / "model.safetensors.index.json"
    body = json.loads(index.read_text())
    body["weight_map"] = {name: "model.safetensors" for name in sorted(weights)}
    index.write_text(json.dumps(body, indent=4))


def random_model(name, config, dtype, default=None, overrides=(), seed=0, loose=False):
    if not wanted(name):
        return
    mx.random.seed(seed)
    base = {"vocab_size": 176, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "eos_token_id": [2, 7], "torch_dtype": dtype}
    config = {**base, **config}
    model = model_class(config)
    def value(path, v):
        last = path.split(".")[-1]
        if last == "weight" and v.ndim == 1:
            return 1 + 0.2 * mx.random.normal(v.shape)
        if last in ("bias", "expert_bias"):
            return 0.2 * mx.random.normal(v.shape)
        if path.endswith("conv.conv.weight"):
            return mx.random.normal(v.shape) * 0.6
        return mx.random.normal(v.shape) * (1.0 if "embed" in path else 1.4) / math.sqrt(v.shape[-1])
    model.load_weights([(k, value(k, v)) for k, v in tree_flatten(model.parameters())])
    cast(model, getattr(mx, dtype))
    quantize(model, config, default, overrides)
    folder = save(name, model, config)
    if loose:
        loosen(folder)
    prompts = [(None, [int(x) for x in mx.random.randint(0, config["vocab_size"], (n,))]) for n in (37, 150)]
    oracle(name, folder, prompts, dtype)


def main():
    sources = Path(sys.argv[1])

    def untie(config, weights):
        config["tie_word_embeddings"] = False
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]

    trained(sources, "lfm2-mxfp8", "lfm2-3bit-g32", affine(3, 32), layers=3, overrides=[
        ("conv.in_proj", affine(6, 64)), ("0.feed_forward.w2", affine(2, 128)),
        ("self_attn.q_proj", False), ("self_attn.v_proj", affine(8, 32))])
    trained(sources, "qwen3-nvfp4", "qwen3-5bit-g128", affine(5, 128), layers=2, change=untie, overrides=[
        ("lm_head", affine(2, 32)), ("0.mlp.down_proj", affine(6, 128)), ("1.self_attn.o_proj", affine(4, 32))])

    llama = {"model_type": "llama", "intermediate_size": 160, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    random_model("tiny-llama-biases", {**llama, "attention_bias": True, "mlp_bias": True, "rope_traditional": True}, "float16",
                 affine(4, 32), [("lm_head", False)], 1)
    random_model("tiny-llama-f32", {**llama, "head_dim": 24, "num_key_value_heads": 1, "vocab_size": 171,
           "hidden_size": 90, "intermediate_size": 67,
                 "rope_scaling": {"type": "linear", "factor": 4.0}}, "float32", None, (), 2)
    random_model("tiny-mistral", {**llama, "model_type": "mistral", "tie_word_embeddings": True, "num_key_value_heads": 4,
                 "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                  "original_max_position_embeddings": 32}}, "bfloat16", affine(8, 32), [("up_proj", affine(2, 32))], 3)
    moe = {"model_type": "qwen3_moe", "intermediate_size": 128, "moe_intermediate_size": 64, "num_experts": 12, "num_experts_per_tok": 3,
           "decoder_sparse_step": 2, "mlp_only_layers": [3], "num_hidden_layers": 4, "rms_norm_eps": 1e-6,
           "head_dim": 32, "rope_theta": 1e4,
           "norm_topk_prob": False, "tie_word_embeddings": True}
    random_model("tiny-qwen3_moe", moe, "bfloat16", affine(6, 32), [("mlp.gate", affine(8, 32)), ("switch_mlp.up_proj", affine(3, 32)),
                 ("switch_mlp.down_proj", affine(5, 64))], 4)
    random_model("tiny-floats", {**moe, "tie_word_embeddings": False, "mlp_only_layers": [], "num_hidden_layers": 2}, "bfloat16",
                 floats("mxfp4"), [("embed_tokens", floats("mxfp8")), ("lm_head", floats("nvfp4")), ("self_attn.o_proj", floats("nvfp4")),
                 ("self_attn.k_proj", affine(8, 32)), ("mlp.gate", affine(8, 32)), ("mlp.gate_proj", floats("mxfp8")),
                 ("mlp.down_proj", floats("mxfp8")), ("switch_mlp.down_proj", floats("nvfp4"))], 8)
    lfm2 = {"model_type": "lfm2_moe", "intermediate_size": 128, "moe_intermediate_size": 64, "num_hidden_layers": 4, "num_experts": 8,
            "num_experts_per_tok": 2, "norm_topk_prob": True, "use_expert_bias": True, "num_dense_layers": 1, "norm_eps": 1e-5,
            "conv_bias": True, "conv_L_cache": 4, "routed_scaling_factor": 1.5,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"]}
    random_model("tiny-lfm2_moe", lfm2, "bfloat16", affine(4, 32), [("feed_forward.gate", False)], 5)
    random_model("tiny-lfm2", {"model_type": "lfm2", "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 96,
                 "block_ff_dim": 150, "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.1, "block_auto_adjust_ff_dim": True,
                 "num_hidden_layers": 3, "full_attn_idxs": [1]}, "bfloat16", affine(2, 32),
                 [("in_proj", affine(3, 32)), ("embed_tokens", affine(6, 32))], 6)
    random_model("tiny-lfm2_moe-hf", {**lfm2, "num_hidden_layers": 3, "num_experts": 4,
                 "layer_types": ["conv", "conv", "full_attention"], "use_expert_bias": False,
                 "conv_bias": False, "norm_topk_prob": False, "hidden_size": 64, "intermediate_size": 72, "moe_intermediate_size": 40,
                 "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}},
                 "float32", None, (), 7, loose=True)


if __name__ == "__main__":
    main()
