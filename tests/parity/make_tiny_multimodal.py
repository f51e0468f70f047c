#!/usr/bin/env python3
"""Make the tiny random models of tests/data/tiny that have a tower for images or sound.

As make_tiny.py, and with a sample that has an image in it: rows and positions as the language model gets
them. The towers are as small as their classes allow: nothing is computed with them, but their tensors must
come out of the program as they went in.

    python tests/parity/make_tiny_multimodal.py [-o tests/data/tiny] [--only NAME ...]
"""
import argparse
import copy
import json
import re
import tempfile
import zlib
from pathlib import Path

import make_tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

TEXT = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": None}
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 2,
          "spatial_merge_size": 1, "temporal_patch_size": 1, "out_hidden_size": 32}
IMAGE = (7, 2, 3, 9)        # tokens of text, rows and columns of an image, tokens of text


def rope(theta, **more):
    """Rotary embeddings as transformers 5 has them."""
    return {"rope_type": "default", "rope_theta": theta, **more}


# a block of linear attention and one of the full kind
HYBRID = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"],
          "rope_parameters": rope(1000.0, mrope_section=[2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.5)}


# name: model_type, settings of the language model, and of the others
CASES = {
    "qwen2_5_vl": ("qwen2_5_vl", {"rope_parameters": rope(1000.0, mrope_section=[1, 1, 2])}, {
        "vision_config": {**VISION, "fullatt_block_indexes": [0], "window_size": 8}}),
    "qwen3_vl": ("qwen3_vl", {
        "head_dim": 16, "tie_word_embeddings": True,
        "rope_parameters": rope(1000.0, mrope_section=[4, 2, 2], mrope_interleaved=True)}, {
        "tie_word_embeddings": True,
        "vision_config": {**VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}}),
    "glm4v": ("glm4v", {
        "num_attention_heads": 2, "num_key_value_heads": 1,
        "rope_parameters": rope(1000.0, mrope_section=[1, 1, 2], partial_rotary_factor=0.5)}, {
        "vision_config": {**VISION, "image_size": 8}}),
    "hunyuan_vl": ("hunyuan_vl", {
        "head_dim": 16, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "alpha": 50.0, "factor": 1.0,
                                            "mrope_section": [2, 2, 2, 2]}}, {
        "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
                          "patch_size": 2, "out_hidden_size": 32, "max_image_size": 8, "spatial_merge_size": 1}}),
    "got_ocr2": ("got_ocr2", {"model_type": "qwen2", "rope_parameters": rope(1000.0)}, {
        "vision_config": {"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "image_size": 16, "patch_size": 4, "mlp_dim": 16, "window_size": 2,
                          "global_attn_indexes": [0]}}),
    "glmasr": ("glmasr", {"model_type": "llama", "rope_parameters": rope(1000.0), "tie_word_embeddings": False}, {
        "tie_word_embeddings": False,
        "audio_config": {"model_type": "glmasr_encoder", "hidden_size": 16, "intermediate_size": 16,
                         "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16,
                         "num_mel_bins": 8}}),
    "glm4v_moe": ("glm4v_moe", {
        "num_attention_heads": 2, "num_key_value_heads": 1, "n_routed_experts": 6, "num_experts_per_tok": 2,
        "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32, "n_shared_experts": 1,
        "routed_scaling_factor": 0.5, "first_k_dense_replace": 1,
        "rope_parameters": rope(1000.0, mrope_section=[1, 1, 2], partial_rotary_factor=0.5)}, {
        "vision_config": {**VISION, "image_size": 8}}),
    "kimi_k25": ("kimi_k25", {
        "model_type": "deepseek_v3", **make_tiny.LATENT, **make_tiny.DEEPSEEK_EXPERTS, "q_lora_rank": 32,
        "num_key_value_heads": 2, "n_group": 1, "tie_word_embeddings": False,
        "rope_parameters": {**make_tiny.YARN_ROPE, "rope_theta": 10000.0, "mscale": 1.0, "mscale_all_dim": 1.0}}, {
        "tie_word_embeddings": False, "projection_hidden_size": 16,
        "vision_config": {"patch_size": 2, "pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 2,
                          "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16,
                          "intermediate_size": 16, "merge_kernel_size": [1, 1]}}),
    "qwen3_vl_moe": ("qwen3_vl_moe", {
        "head_dim": 16, "tie_word_embeddings": False, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 48, "mlp_only_layers": [0],
        "rope_parameters": rope(1000.0, mrope_section=[4, 2, 2], mrope_interleaved=True)}, {
        "tie_word_embeddings": False,
        "vision_config": {**VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}}),
    "ernie4_5_vl_moe": ("ernie4_5_vl_moe", {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [32, 16], "moe_num_shared_experts": 1,
        "mlp_layer_types": ["dense", "sparse"], "tie_word_embeddings": True,
        "rope_parameters": rope(1000.0, mrope_section=[1, 1, 2])}, {
        "tie_word_embeddings": True,
        "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 2,
                          "spatial_merge_size": 1, "temporal_merge_size": 1}}),
    "qwen3_5_vl": ("qwen3_5", {
        **make_tiny.DELTA, **HYBRID, "head_dim": 16}, {
        "tie_word_embeddings": False, "vision_config": {**VISION, "num_position_embeddings": 4}}),
    "qwen3_5_moe_vl": ("qwen3_5_moe", {
        **make_tiny.DELTA, **HYBRID, "head_dim": 16, "num_attention_heads": 2, "num_experts": 3,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}, {
        "tie_word_embeddings": False, "vision_config": {**VISION, "num_position_embeddings": 4}}),
    # not in transformers: a Qwen3 whose tensors have another prefix, beside those of a tower
    "minicpmv": ("qwen3", {"head_dim": 16, "rope_parameters": rope(1000.0), "tie_word_embeddings": False}, {}),
}
TOKEN_IDS = {"qwen2_5_vl": {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92,
                            "vision_end_token_id": 93},
             "glm4v": {"image_token_id": 90, "video_token_id": 91},
             "hunyuan_vl": {"image_token_id": 90}, "got_ocr2": {"image_token_index": 90},
             "glmasr": {"audio_token_id": 90}}
for like_qwen in ("qwen3_vl", "qwen3_vl_moe", "qwen3_5_vl", "qwen3_5_moe_vl"):
    TOKEN_IDS[like_qwen] = TOKEN_IDS["qwen2_5_vl"]
# no token of a sample: the class puts others in the place of those
TOKEN_IDS["kimi_k25"] = {"image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 0, "vision_end_token_id": 2}
TOKEN_IDS["ernie4_5_vl_moe"] = {"image_token_id": 90, "video_token_id": 91, "image_start_token_id": 92,
                                "image_end_token_id": 93, "video_start_token_id": 94, "video_end_token_id": 95}
TOKEN_IDS["glm4v_moe"] = TOKEN_IDS["glm4v"]
# with a sample that has an image, and where what the first block makes is added to at its tokens
WITH_IMAGE = ("qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_5_moe", "glm4v", "glm4v_moe", "qwen3_vl_moe")
DEEPSTACK = ("qwen3_vl", "qwen3_vl_moe")
KIMI = {"ignore_index": -100, "media_placeholder_token_id": 1, "use_unified_vision_chunk": True,
        "video_placeholder": "<|kimi_k25_video_placeholder|>"}
MINICPM = {"architectures": ["MiniCPMV"], "model_type": "minicpmv", "version": 4.5, "query_num": 4, "image_size": 448,
           "slice_mode": True, "use_image_id": True, "vision_batch_size": 16, "batch_vision_input": True,
           "drop_vision_last_layer": False,
           "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
           "vision_config": {"hidden_size": 16, "intermediate_size": 16, "model_type": "siglip_vision_model"}}


def make_config(name):
    """The configuration of a case."""
    model_type, text, others = CASES[name]
    if not others:
        return AutoConfig.for_model(model_type, **{**TEXT, **text})
    return AutoConfig.for_model(model_type, text_config={**TEXT, **text}, **others, **TOKEN_IDS[name])


def make_model(config):
    """A model of the configuration, BF16."""
    kind = AutoModelForMultimodalLM if hasattr(config, "text_config") else AutoModelForCausalLM
    return kind.from_config(config, dtype=torch.bfloat16)


def load(folder):
    """A saved model in float32, with attention computed step by step."""
    return AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def language_model(model):
    """The part that has the decoder's blocks."""
    return getattr(model.model, "language_model", model.model)


def image_inputs(config, generator):
    """Rows (n, hidden) and positions (3, n) of text, an image and text again, as the models lay them out."""
    before, height, width, after = IMAGE
    grid = [(0, y, x) for y in range(height) for x in range(width)]
    positions = [(i,) * 3 for i in range(before)]
    positions += [tuple(before + c for c in cell) for cell in grid]
    start = before + max(height, width)
    positions += [(start + i,) * 3 for i in range(after)]
    rows = torch.randn((len(positions), config.text_config.hidden_size), generator=generator)
    result = {"embeds": rows.to(torch.bfloat16), "positions": torch.tensor(positions, dtype=torch.int32).T.contiguous()}
    if config.model_type in DEEPSTACK:
        added = torch.zeros_like(rows)
        added[before:before + height * width] = torch.randn((height * width, rows.shape[1]), generator=generator)
        result["deepstack_0"] = added.to(torch.bfloat16)
    return result


def run_image(model, inputs):
    """The language model's output for a sample of image_inputs."""
    arguments = {}
    if "deepstack_0" in inputs:
        before, height, width, _after = IMAGE
        mask = torch.zeros((1, len(inputs["embeds"])), dtype=torch.bool)
        mask[0, before:before + height * width] = True
        arguments = {"visual_pos_masks": mask, "deepstack_visual_embeds": [inputs["deepstack_0"][mask[0]].float()]}
    return language_model(model)(inputs_embeds=inputs["embeds"][None].float(), use_cache=False,
                                 position_ids=inputs["positions"][:, None].long(), **arguments).last_hidden_state


def old_config(name, config):
    """config.json as it was published, or as transformers 4 writes it."""
    old = copy.deepcopy(config)
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.46.0"
    if name == "glmasr":        # its class takes no rope_theta outside of rope_parameters
        return dict(sorted(old.items()))
    text = old["text_config"] if "text_config" in old else old
    scaling = text.pop("rope_parameters")
    text["rope_theta"] = scaling.pop("rope_theta")
    if "partial_rotary_factor" in scaling:
        text["partial_rotary_factor"] = scaling["partial_rotary_factor"]
    kind = scaling.pop("rope_type")
    if name == "hunyuan_vl":
        text["rope_scaling"] = {"type": "xdrope", "xdrope_section": scaling.pop("mrope_section"), **scaling}
    elif name == "qwen2_5_vl":
        text["rope_scaling"] = {"type": "mrope", **scaling}
    elif scaling:
        text["rope_scaling"] = {"rope_type": kind, **scaling}
    if name == "kimi_k25":
        text["model_type"] = "kimi_k2"
        old.update(KIMI)
    if name in ("qwen2_5_vl", "hunyuan_vl"):        # settings of the language model at the top level
        del old["text_config"]
        old = {**{k: v for k, v in text.items() if k != "model_type"}, **old}
    return dict(sorted(old.items()))


def trace(model, inputs):
    """Residual stream after each block, and logits, of one sample: tokens, or what image_inputs makes."""
    hidden = []
    hooks = [layer.register_forward_hook(lambda _module, _inputs, output: hidden.append(
        (output[0] if isinstance(output, tuple) else output)[0].clone())) for layer in language_model(model).layers]
    with torch.no_grad():
        if isinstance(inputs, dict):
            logits = model.lm_head(run_image(model, inputs))[0]
        else:
            logits = model(input_ids=inputs[None].long(), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return hidden, logits


def expected_outputs(model, seed):
    """All tensors of expected.safetensors."""
    result = make_tiny.expected_outputs(lambda tokens: trace(model, tokens), seed)
    if model.config.model_type not in WITH_IMAGE:
        return result
    inputs = image_inputs(model.config, torch.Generator().manual_seed(seed + 2000))
    hidden, logits = trace(model, inputs)
    result.update({f"{name}_image": values for name, values in inputs.items()})
    for name, values in {"logits{}_image": logits, **{f"hidden{{}}_image_{i}": h for i, h in enumerate(hidden)}}.items():
        result[name.format("")] = values[-make_tiny.KEPT:].contiguous()
        result[name.format("_norm")] = values.norm(dim=-1)
    return result


def add_tower(folder, generator):
    """A saved Qwen3 becomes the language model of a larger one, as MiniCPM-V has it."""
    tensors = {f"llm.{name}": values for name, values in load_file(folder / "model.safetensors").items()}
    for name, shape in (("vpm.embeddings.patch_embedding.weight", (4, 3, 2, 2)),
                        ("vpm.encoder.layers.0.self_attn.q_proj.weight", (16, 16)), ("resampler.query", (4, 32))):
        tensors[name] = torch.randn(shape, generator=generator).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **MINICPM}
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n", encoding="utf-8")


def publish(folder, name):
    """Tensors as the published checkpoints have them; transformers 5 reads those, and writes others."""
    tensors = load_file(folder / "model.safetensors")
    if name == "kimi_k25":
        tensors = {re.sub(r"^language_model\.model\.blocks\.", "language_model.model.layers.",
                          key.removeprefix("model.")): values for key, values in tensors.items()}
    if name == "qwen3_vl_moe":
        tensors = {key: values.transpose(1, 2).contiguous() if ".experts." in key else values
                   for key, values in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def stack_experts(folder):
    """The experts of each block in two tensors, as they are published; the library saves them one by one."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    parts = {}
    for name in [name for name in tensors if ".mlp.experts." in name]:
        block, rest = name.split(".experts.")
        expert, leaf, _ = rest.split(".")
        parts.setdefault(f"{block}.experts", {})[int(expert), leaf] = tensors.pop(name)
    for name, part in parts.items():
        numbers = sorted({expert for expert, _ in part})
        both = [torch.cat([part[i, "gate_proj"], part[i, "up_proj"]]) for i in numbers]
        tensors[f"{name}.gate_up_proj"] = torch.stack(both)
        tensors[f"{name}.down_proj"] = torch.stack([part[i, "down_proj"] for i in numbers])
    save_file(tensors, path, {"format": "pt"})


def check_old_config(folder, expected, seed):
    """transformers 5 must compute the same from the old configuration."""
    with tempfile.TemporaryDirectory() as other:
        (Path(other) / "config.json").write_bytes((folder / "config.v4.json").read_bytes())
        (Path(other) / "model.safetensors").symlink_to((folder / "model.safetensors").resolve())
        again = expected_outputs(load(Path(other)), seed)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def make_case(folder, name):
    """Write one model and its expected outputs."""
    seed = zlib.crc32(name.encode()) % 100_000
    config = make_config(name)
    config.dtype = torch.bfloat16
    model = make_model(config)
    make_tiny.randomise(model, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name in ("kimi_k25", "qwen3_vl_moe"):
        publish(folder, name)
    if name == "qwen3_5_moe_vl":
        stack_experts(folder)
    known = hasattr(config, "text_config")
    expected = expected_outputs((load if known else make_tiny.load)(folder), seed)
    make_tiny.save_expected(folder, expected)
    if not known:
        add_tower(folder, torch.Generator().manual_seed(seed + 2000))
    (folder / "model.safetensors").chmod(0o644)     # the library makes it private
    path = folder / "config.json"
    new = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    (folder / "config.v4.json").write_text(json.dumps(old_config(name, new), indent=2) + "\n", encoding="utf-8")
    if known:
        check_old_config(folder, expected, seed)
    make_tiny.finish(folder, name, expected)


def main():
    """Make all cases, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-o", "--output", type=Path,
                        default=Path(__file__).resolve().parents[1] / "data" / "tiny")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for name in args.only:
        folder = args.output / name
        folder.mkdir(parents=True, exist_ok=True)
        make_case(folder, name)


if __name__ == "__main__":
    main()
