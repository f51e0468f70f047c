#!/usr/bin/env python3
"""Make the tiny random models of tests/data/tiny and the outputs expected of them.

One folder per case: a seeded random model in BF16, and expected.safetensors with what transformers
computes from those BF16 weights in float32; of the first Qwen, which it does not have, what
qwen1_reference.py computes. The layout is described in tests/data/tiny/README.md.
Norm weights and biases are random, and the weights are scaled so that an error anywhere shows
in the outputs, far above the rounding of BF16 arithmetic.

    python tests/parity/make_tiny.py [-o tests/data/tiny] [--only NAME ...]
                                     [--config-style 4|5|both]

Needs torch and transformers 5. The same versions make the same bytes.
"""
import argparse
import json
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import qwen1_reference
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

LENGTHS = (1, 7, 129)
KEPT = 8                    # of longer samples only the last positions are stored in full
SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
         "bos_token_id": 1, "eos_token_id": 2}
# most families are as well tested by half the width
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
MIXED_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
UNUSED_WINDOW = 48          # small: a reader that forgets use_sliding_window gets other outputs
COHERE = ("cohere", "cohere2")
OWN_PAD = ("smollm3", "gemma", "phi3", "glm", "glm4")   # whose default need not be a token here
# store the weights of norms less 1
GEMMA = ("gemma", "gemma2", "gemma3_text", "qwen3_5_text", "qwen3_next", "qwen3_5",
         "qwen3_5_moe_text", "qwen3_5_moe")
TURNED = ("gpt_oss", "llama4_text")             # whose experts' weights are (inputs, outputs)
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 500000.0, "factor": 8.0, "beta_fast": 8.0,
             "beta_slow": 1.0, "original_max_position_embeddings": 64}

LATENT = {"num_attention_heads": 2, "kv_lora_rank": 32, "qk_nope_head_dim": 8,
          "qk_rope_head_dim": 4, "v_head_dim": 16}
# experts that add little, so that one chosen otherwise for a rounding does little
DEEPSEEK_EXPERTS = {"intermediate_size": 32, "moe_intermediate_size": 32, "n_routed_experts": 4,
                    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2,
                    "topk_group": 1, "routed_scaling_factor": 0.1, "first_k_dense_replace": 1}

DELTA = {"num_hidden_layers": 3, "head_dim": 8, "linear_num_key_heads": 2,
         "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 8,
         "layer_types": ["linear_attention", "linear_attention", "full_attention"],
         "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                             "partial_rotary_factor": 0.5}}


# name: config.json of a first-generation Qwen
QWEN1_CASES = {
    "qwen1": {"model_type": "qwen", "architectures": ["QWenLMHeadModel"], "vocab_size": 96,
              "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 4, "kv_channels": 16, "seq_length": 32,
              "max_position_embeddings": 512, "layer_norm_epsilon": 1e-6,
              "rotary_emb_base": 10000, "rotary_pct": 1.0, "use_dynamic_ntk": True,
              "use_logn_attn": True, "no_bias": True, "tie_word_embeddings": False,
              "attn_dropout_prob": 0.0, "emb_dropout_prob": 0.0, "bf16": True, "fp16": False,
              "fp32": False, "initializer_range": 0.02, "onnx_safe": None,
              "scale_attn_weights": True, "softmax_in_fp32": False,
              "tokenizer_class": "QWenTokenizer", "transformers_version": "4.32.0",
              "use_cache": True, "use_cache_kernel": False, "use_cache_quantization": False,
              "use_flash_attn": "auto"},
}
QWEN1_DEFAULTS = ("layer_norm_epsilon", "rotary_emb_base", "rotary_pct", "use_dynamic_ntk",
                  "use_logn_attn", "no_bias")


def default_rope(theta):
    """Rotary embeddings without scaling."""
    return {"rope_type": "default", "rope_theta": theta}


# name: model_type and what differs from SIZES
CASES = {
    "llama2": ("llama", {"num_key_value_heads": 4, "rope_parameters": default_rope(10000.0),
                         "rms_norm_eps": 1e-5}),
    "llama3": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE,
                         "rms_norm_eps": 1e-5}),
    "mistral": ("mistral", {"sliding_window": 48, "rope_parameters": default_rope(10000.0),
                            "rms_norm_eps": 1e-5}),
    "qwen2": ("qwen2", {"use_sliding_window": False, "max_window_layers": 1,
                        "tie_word_embeddings": True, "rope_parameters": default_rope(1e6)}),
    "qwen3": ("qwen3", {"head_dim": 24, "rope_parameters": default_rope(1e6)}),
    "command_r": ("cohere", {"logit_scale": 0.125, "num_key_value_heads": 4,
                             "rope_parameters": default_rope(8e6)}),
    "command_r_plus": ("cohere", {"logit_scale": 0.125, "use_qk_norm": True,
                                  "rope_parameters": default_rope(75e6)}),
    "granite": ("granite", {**SMALL, "attention_multiplier": 0.5, "embedding_multiplier": 3.0,
                            "residual_multiplier": 0.22, "logits_scaling": 2.0,
                            "rope_parameters": default_rope(10000.0)}),
    "smollm3": ("smollm3", {**SMALL, "num_hidden_layers": 3, "no_rope_layers": [1, 0, 1],
                            "use_sliding_window": True, "sliding_window": 20,
                            "layer_types": MIXED_TYPES, "pad_token_id": None,
                            "rope_parameters": default_rope(10000.0)}),
    "cohere2": ("cohere2", {**SMALL, "num_hidden_layers": 3, "sliding_window": 20,
                            "layer_types": MIXED_TYPES, "logit_scale": 0.25,
                            "rope_parameters": default_rope(10000.0)}),
    "ministral": ("ministral", {**SMALL, "num_hidden_layers": 3, "sliding_window": 20,
                                "layer_types": MIXED_TYPES, "head_dim": 8,
                                "rope_parameters": default_rope(10000.0)}),
    "hunyuan": ("hunyuan_v1_dense", {**SMALL, "head_dim": 16,
                                     "rope_parameters": {"rope_type": "dynamic", "factor": 1.0,
                                                         "alpha": 50.0, "rope_theta": 100.0}}),
    "olmo2": ("olmo2", {**SMALL, "rope_parameters": default_rope(10000.0)}),
    "olmo3": ("olmo3", {**SMALL, "num_hidden_layers": 3, "sliding_window": 20,
                        "layer_types": MIXED_TYPES, "rope_parameters": {
                            "full_attention": YARN_ROPE,
                            "sliding_attention": default_rope(500000.0)}}),
    "gemma": ("gemma", {**SMALL, "head_dim": 16, "rope_parameters": default_rope(10000.0)}),
    "gemma2": ("gemma2", {**SMALL, "head_dim": 16, "sliding_window": 20,
                          "query_pre_attn_scalar": 4, "attn_logit_softcapping": 1.0,
                          "final_logit_softcapping": 1.5,
                          "rope_parameters": default_rope(10000.0)}),
    "gemma3": ("gemma3_text", {**SMALL, "num_hidden_layers": 3, "head_dim": 8,
                               "sliding_window": 20, "query_pre_attn_scalar": 4,
                               "layer_types": MIXED_TYPES, "rope_parameters": {
                                   "full_attention": {"rope_type": "linear", "factor": 8.0,
                                                      "rope_theta": 1000000.0},
                                   "sliding_attention": default_rope(100.0)}}),
    "ernie4_5": ("ernie4_5", {**SMALL, "head_dim": 8, "use_bias": True,
                              "rope_parameters": default_rope(10000.0)}),
    "seed_oss": ("seed_oss", {**SMALL, "head_dim": 8, "attention_out_bias": True, "mlp_bias": True,
                              "rope_parameters": default_rope(10000.0)}),
    "phi3": ("phi3", {**SMALL, "pad_token_id": None, "original_max_position_embeddings": 64,
                      "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0,
                                          "partial_rotary_factor": 0.75,
                                          "short_factor": [1.0, 1.1, 1.3],
                                          "long_factor": [1.0, 4.0, 8.0]}}),
    "glm4": ("glm4", {**SMALL, "head_dim": 8, "pad_token_id": None,
                      "rope_parameters": {**default_rope(10000.0),
                                          "partial_rotary_factor": 0.5}}),
    "starcoder2": ("starcoder2", {**SMALL, "sliding_window": 20, "tie_word_embeddings": True,
                                  "rope_parameters": default_rope(10000.0)}),
    "glm": ("glm", {**SMALL, "head_dim": 8, "pad_token_id": None,
                    "rope_parameters": {**default_rope(10000.0), "partial_rotary_factor": 0.5}}),
    "mixtral": ("mixtral", {**SMALL, "intermediate_size": 32, "num_local_experts": 4,
                            "num_experts_per_tok": 2, "rope_parameters": default_rope(10000.0)}),
    "qwen2_moe": ("qwen2_moe", {**SMALL, "num_experts": 5, "num_experts_per_tok": 2,
                                "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
                                "mlp_only_layers": [0],
                                "rope_parameters": default_rope(10000.0)}),
    "qwen3_moe": ("qwen3_moe", {**SMALL, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 3,
                                "moe_intermediate_size": 32, "norm_topk_prob": True,
                                "decoder_sparse_step": 2,
                                "rope_parameters": default_rope(10000.0)}),
    "olmoe": ("olmoe", {**SMALL, "intermediate_size": 32, "num_experts": 4,
                        "num_experts_per_tok": 2, "rope_parameters": default_rope(10000.0)}),
    "glm4_moe": ("glm4_moe", {**SMALL, "head_dim": 8, "attention_bias": True, "use_qk_norm": True,
                              "n_routed_experts": 6, "num_experts_per_tok": 2, "n_group": 3,
                              "topk_group": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
                              "routed_scaling_factor": 1.5, "first_k_dense_replace": 1,
                              "rope_parameters": {**default_rope(10000.0),
                                                  "partial_rotary_factor": 0.5}}),
    "minimax_m2": ("minimax_m2", {**SMALL, "intermediate_size": 32, "head_dim": 8,
                                  "num_local_experts": 4, "num_experts_per_tok": 2,
                                  "rope_parameters": {**default_rope(10000.0),
                                                      "partial_rotary_factor": 0.5}}),
    "ernie4_5_moe": ("ernie4_5_moe", {**SMALL, "num_hidden_layers": 3, "intermediate_size": 32,
                                      "moe_num_experts": 4,
                                      "moe_k": 2, "moe_intermediate_size": 32,
                                      "moe_num_shared_experts": 1, "moe_layer_start_index": 1,
                                      "moe_layer_end_index": 1, "use_bias": False,
                                      "rope_parameters": default_rope(10000.0)}),
    "hunyuan_moe": ("hunyuan_v1_moe", {**SMALL, "intermediate_size": 32, "head_dim": 8,
                                       "num_experts": 3, "moe_topk": 2,
                                       "rope_parameters": default_rope(10000.0)}),
    "granite_swa": ("granite_swa", {**SMALL, "num_hidden_layers": 3, "sliding_window": 20,
                                    "layer_types": MIXED_TYPES, "attention_multiplier": 0.5,
                                    "layer_rope_theta": [10000.0, 0, 10000.0],
                                    "rope_parameters": default_rope(100.0)}),
    "llama4_text": ("llama4_text", {**SMALL, "num_hidden_layers": 3, "head_dim": 8,
                                    "intermediate_size_mlp": 64, "moe_layers": [],
                                    "no_rope_layers": [1, 0, 1], "attention_chunk_size": 20,
                                    "floor_scale": 16, "attn_scale": 0.5,
                                    "rope_parameters": LLAMA3_ROPE}),
    "qwen3_5": ("qwen3_5_text", {**SMALL, "head_dim": 16, "layer_types": ["full_attention"] * 2,
                                 "rope_parameters": {**default_rope(10000.0),
                                                     "partial_rotary_factor": 0.25}}),
    "deepseek_v2": ("deepseek_v2", {
        **SMALL, **LATENT, **DEEPSEEK_EXPERTS, "q_lora_rank": 64,
        "topk_method": "group_limited_greedy", "rope_parameters": {
            **YARN_ROPE, "rope_theta": 10000.0, "mscale": 0.707, "mscale_all_dim": 0.707}}),
    "deepseek_v2_lite": ("deepseek_v2", {
        **SMALL, **LATENT, "first_k_dense_replace": 2, "num_experts_per_tok": 1,
        "intermediate_size": 32, "num_attention_heads": 32, "q_lora_rank": None,
        "num_key_value_heads": 32, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 2,
        "rope_parameters": default_rope(10000.0)}),
    "deepseek_v3": ("deepseek_v3", {
        **SMALL, **LATENT, **DEEPSEEK_EXPERTS, "q_lora_rank": 32, "attention_bias": True,
        "rms_norm_eps": 1e-3, "rope_parameters": {
            **YARN_ROPE, "rope_theta": 10000.0, "mscale": 1.0, "mscale_all_dim": 0.5}}),
    "granitemoe": ("granitemoe", {**SMALL, "intermediate_size": 32, "num_local_experts": 4,
                                  "num_experts_per_tok": 2, "attention_multiplier": 0.5,
                                  "embedding_multiplier": 3.0, "residual_multiplier": 0.22,
                                  "logits_scaling": 2.0,
                                  "rope_parameters": default_rope(10000.0)}),
    "gpt_oss": ("gpt_oss", {**SMALL, "intermediate_size": 32, "head_dim": 8,
                            "num_local_experts": 4, "num_experts_per_tok": 2,
                            "sliding_window": 20, "swiglu_limit": 1.5,
                            "layer_types": MIXED_TYPES[:2],
                            "rope_parameters": {**YARN_ROPE, "truncate": False}}),
    "llama4_moe": ("llama4_text", {**SMALL, "intermediate_size": 32, "head_dim": 8,
                                   "intermediate_size_mlp": 64, "moe_layers": [1],
                                   "num_local_experts": 4, "no_rope_layers": [1, 0],
                                   "attention_chunk_size": 20, "floor_scale": 16,
                                   "attn_scale": 0.5, "rope_parameters": LLAMA3_ROPE}),
    "qwen3_5_delta": ("qwen3_5_text", {**SMALL, **DELTA}),
    "qwen3_next": ("qwen3_next", {**SMALL, **DELTA, "intermediate_size": 32, "num_experts": 3,
                                  "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                                  "shared_expert_intermediate_size": 32, "mlp_only_layers": [1],
                                  "linear_conv_kernel_dim": 3}),
    "qwen3_5_moe": ("qwen3_5_moe_text", {**SMALL, **DELTA, "num_hidden_layers": 2, "num_experts": 4,
                                         "layer_types": DELTA["layer_types"][1:],
                                         "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                                         "shared_expert_intermediate_size": 32}),
    # not in transformers: a Llama with biases, under its own names in config.json
    "internlm3": ("llama", {**SMALL, "attention_bias": True, "mlp_bias": True, "head_dim": 16,
                            "rope_parameters": {"rope_type": "dynamic", "factor": 6.0,
                                                "rope_theta": 10000.0}}),
}


# ---------------------------------------------------------------- weights

def standard_deviation(name, shape, config):
    """The scale of a random tensor, chosen so that signals keep their size.

    Logits get a standard deviation near 1, and blocks add less to the residual stream than it
    has: then BF16 arithmetic costs a KL of some 1e-5, and mistakes a hundred times that.
    """
    # tied: logits are inner products of the embeddings with a vector of norm ~8
    stream = 0.125 if config.tie_word_embeddings and config.model_type not in COHERE else 1.0
    if name.endswith("bias"):
        return 0.3
    if name.endswith("sinks"):
        return 1.5
    if "embed_tokens" in name or "wte" in name:
        return stream
    gain = 1.0
    if name.endswith("o_proj.weight"):
        gain = stream
    elif name.endswith(("down_proj.weight", "c_proj.weight", "experts.down_proj")):
        gain = 1.5 * stream     # silu(gate) * up is smaller than its factors
    turned = config.model_type in TURNED and "experts." in name
    return gain / shape[-2 if turned else -1] ** 0.5


def random_tensors(shapes, config, generator):
    """Name and BF16 tensor for each name and shape, in the order of the names."""
    for name, shape in sorted(shapes.items()):
        values = torch.randn(shape, generator=generator)
        if ("norm" in name or ".ln_" in name) and not name.endswith("bias"):
            less_1 = config.model_type in GEMMA and "linear_attn" not in name
            values = 0.25 * values + (0.0 if less_1 else 1.0)
        elif name.endswith("A_log"):
            values = values - 2     # states that last for some tokens, and for many
        else:
            values = values * standard_deviation(name, shape, config)
        yield name, values.to(torch.bfloat16)


def randomise(model, seed):
    """Fill all parameters, then what a router corrects its scores by, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    for name, values in random_tensors(shapes, model.config, generator):
        parameters[name].data = values
    for name, buffer in sorted(model.named_buffers()):
        if "correction" in name:
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))


# ---------------------------------------------------------------- outputs

def trace(model, tokens):
    """Residual stream after each block, and logits, of one sample."""
    hidden = []
    hooks = [layer.register_forward_hook(
        lambda _module, _inputs, output: hidden.append(
            (output[0] if isinstance(output, tuple) else output)[0].clone()))
        for layer in model.model.layers]
    with torch.no_grad():
        logits = model(tokens[None].long(), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return hidden, logits


def expected_outputs(trace_of, seed):
    """All tensors of expected.safetensors; trace_of(tokens): as trace."""
    generator = torch.Generator().manual_seed(seed + 1000)
    result = {}
    for length in LENGTHS:
        tokens = torch.randint(3, SIZES["vocab_size"], (length,), generator=generator,
                               dtype=torch.int32)
        hidden, logits = trace_of(tokens)
        result[f"tokens_{length}"] = tokens
        result[f"logits_{length}"] = logits[-KEPT:].contiguous()
        result[f"logits_norm_{length}"] = logits.norm(dim=-1)
        for i, values in enumerate(hidden):
            result[f"hidden_{length}_{i}"] = values[-KEPT:].contiguous()
            result[f"hidden_norm_{length}_{i}"] = values.norm(dim=-1)
    return result


def describe(name, expected):
    """One line that shows whether the case is worth something."""
    logits = expected[f"logits_{LENGTHS[-1]}"]
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    hidden = [f"{expected[f'hidden_{LENGTHS[-1]}_{i}'].std():.2f}"
              for i in range(sum(name.startswith("hidden_1_") for name in expected))]
    print(f"{name:16s} logits' std {logits.std():.2f}, entropy {entropy:.2f} nats; "
          f"blocks' std {' '.join(hidden)}")


# ---------------------------------------------------------------- configuration

def version_4_config(config):
    """The same configuration as transformers 4 writes it, from the JSON of transformers 5."""
    old = dict(config)
    rope = old.pop("rope_parameters")
    if "full_attention" in rope:
        sliding, rope = rope["sliding_attention"], rope["full_attention"]
        if old["model_type"] == "gemma3_text":
            old["rope_local_base_freq"] = sliding["rope_theta"]
    old["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        part = rope.pop("partial_rotary_factor")
        if old["model_type"] == "minimax_m2":
            old["rotary_dim"] = int(part * old["head_dim"])
        else:
            old["partial_rotary_factor"] = part
    if rope["rope_type"] != "default":
        old["rope_scaling"] = rope
    elif old["model_type"] in ("llama", "qwen2", "qwen3"):
        old["rope_scaling"] = None
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.46.0"
    if old["model_type"] in ("qwen2", "qwen3", "cohere2", "gemma2", "gemma3_text", "llama4_text"):
        old.pop("layer_types", None)
    if old["model_type"] == "qwen3_next":
        old["full_attention_interval"] = len(old.pop("layer_types"))
    if old["model_type"] in ("cohere2", "gemma3_text"):
        old["sliding_window_pattern"] = 2
    if old["model_type"] not in OWN_PAD:
        old.pop("pad_token_id", None)
    if old["model_type"] in ("qwen2", "qwen3") and not old["use_sliding_window"]:
        # version 5 saves null when the window is off; older versions kept the unused number
        old["sliding_window"] = UNUSED_WINDOW
    if old["model_type"] in COHERE:
        # true is this family's default, and version 4 left defaults of the base class out
        old.pop("tie_word_embeddings")
        if not old.get("use_qk_norm"):
            old.pop("use_qk_norm", None)
    return dict(sorted(old.items()))


def write_configs(folder, style):
    """config.json in the chosen style; for both, version 5's, and version 4's as config.v4.json."""
    path = folder / "config.json"
    new = json.loads(path.read_text(encoding="utf-8"))
    old = version_4_config(json.loads(path.read_text(encoding="utf-8")))
    files = {"5": {"config.json": new}, "4": {"config.json": old},
             "both": {"config.json": new, "config.v4.json": old}}[style]
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check_config_4(folder, expected, seed):
    """transformers 5 must compute the same from the version 4 configuration."""
    path = folder / "config.v4.json"
    if not path.exists():
        return
    with tempfile.TemporaryDirectory() as other:
        (Path(other) / "config.json").write_bytes(path.read_bytes())
        (Path(other) / "model.safetensors").symlink_to((folder / "model.safetensors").resolve())
        model = load(Path(other))
    again = expected_outputs(lambda tokens: trace(model, tokens), seed)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


# ---------------------------------------------------------------- the folders

def load(folder):
    """A saved model in float32, with attention computed step by step."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                attn_implementation="eager").eval()


def add_further_block(folder, config, seed):
    """Some tensors of a block that predicts the token after the next, which readers leave alone."""
    generator = torch.Generator().manual_seed(seed + 2000)
    path, n = folder / "model.safetensors", config.hidden_size
    tensors = load_file(path)
    further = {"deepseek_v3": (f"model.layers.{config.num_hidden_layers}.",
                               {"enorm": (n,), "hnorm": (n,), "eh_proj": (n, 2 * n)}),
               "qwen3_next": ("mtp.", {"norm": (n,), "layers.0.self_attn.o_proj": (n, 8)})}
    prefix, shapes = further[config.model_type]
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator).to(torch.bfloat16)
        tensors[f"{prefix}{name}.weight"] = values
    save_file(tensors, path, metadata={"format": "pt"})


def make_case(folder, name, seed, style):
    """Write one model and its expected outputs."""
    model_type, changes = CASES[name]
    config = AutoConfig.for_model(model_type, **{**SIZES, **changes})
    config.pad_token_id = None      # a pad token would zero its row of the embeddings
    config.dtype = torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    randomise(model, seed)
    model.save_pretrained(folder)
    if model_type in ("deepseek_v3", "qwen3_next"):
        add_further_block(folder, config, seed)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)     # the library makes it private
    loaded = load(folder)
    expected = expected_outputs(lambda tokens: trace(loaded, tokens), seed)
    save_expected(folder, expected)
    write_configs(folder, style)
    check_config_4(folder, expected, seed)
    finish(folder, name, expected)


def make_qwen1(folder, name, seed):
    """The same of a model that transformers cannot load; the other config.json leaves out what is
    the default."""
    config = QWEN1_CASES[name]
    like = SimpleNamespace(**config)
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(random_tensors(qwen1_reference.shapes(config), like, generator))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    weights = {key: value.double().numpy() for key, value in tensors.items()}

    def trace_of(tokens):
        hidden, logits = qwen1_reference.forward(config, weights, tokens.numpy())
        return [torch.from_numpy(h).float() for h in hidden], torch.from_numpy(logits).float()

    expected = expected_outputs(trace_of, seed)
    save_expected(folder, expected)
    short = {key: value for key, value in config.items() if key not in QWEN1_DEFAULTS}
    for file, values in (("config.json", config), ("config.v4.json", short)):
        text = json.dumps(values, indent=2, sort_keys=True)
        (folder / file).write_text(text + "\n", encoding="utf-8")
    finish(folder, name, expected)


def save_expected(folder, expected):
    """Write expected.safetensors."""
    save_file(expected, folder / "expected.safetensors")
    (folder / "expected.safetensors").chmod(0o644)


def finish(folder, name, expected):
    """Say what was made, and refuse to make it large."""
    describe(name, expected)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size <= 200_000, f"{name}: {size} bytes"


def seed_of(name):
    """The place of the first cases; from granite_swa on a checksum of the name, so that cases may
    come and go without others changing."""
    place = list(CASES).index(name) if name in CASES else len(CASES)
    named = place >= list(CASES).index("granite_swa")
    return zlib.crc32(name.encode()) % 100_000 if named else place


def rename_internlm3(folder):
    """Its config.json says of biases what that of a Llama says in other words."""
    for path in folder.glob("config*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.update(model_type="internlm3", architectures=["InternLM3ForCausalLM"],
                      qkv_bias=config.pop("attention_bias"), bias=config.pop("mlp_bias"))
        path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n", encoding="utf-8")


def main():
    """Make all cases, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=Path,
                        default=Path(__file__).resolve().parents[1] / "data" / "tiny")
    parser.add_argument("--only", nargs="+", choices=[*CASES, *QWEN1_CASES],
                        default=[*CASES, *QWEN1_CASES], metavar="NAME")
    parser.add_argument("--config-style", choices=("4", "5", "both"), default="both")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for name in args.only:
        folder = args.output / name
        folder.mkdir(parents=True, exist_ok=True)
        if name in QWEN1_CASES:
            make_qwen1(folder, name, seed_of(name))
        else:
            make_case(folder, name, seed_of(name), args.config_style)
        if name == "internlm3":
            rename_internlm3(folder)


if __name__ == "__main__":
    main()
