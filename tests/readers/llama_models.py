#!/usr/bin/env python3
"""Make small random models with tokenizers of every kind that --format gguf has a name for.

    python tests/readers/llama_models.py OUT

One folder per case: a family of make_tiny.py with a larger vocabulary, and a tokenizer trained on
the demo model's text with the cuts of a known one. Needs tokenizers, torch and transformers.
"""
import json
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import make_tiny  # noqa: E402

TEXT = Path(__file__).resolve().parents[2] / "models" / "demo" / "calibration.jsonl"
VOCAB = 1024
BOS, EOS, TOOL = "<|begin|>", "<|end|>", "[tool]"

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# name: case of make_tiny.py, what differs, cuts, ignore_merges
CASES = {
    "llama2": ("llama2", {}, "words", False),
    "smollm": ("llama2", {"tie_word_embeddings": True}, "digits", False),
    "llama3": ("llama3", {}, CONTRACTIONS + r"\p{N}{1,3}" + REST, True),
    "biases": ("llama3", {"attention_bias": True, "mlp_bias": True}, "words", False),
    "linear_rope": ("llama2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4,
                                                   "factor": 4.0}}, "words", False),
    "mistral": ("mistral", {}, TEKKEN, True),
    "qwen2": ("qwen2", {}, CONTRACTIONS + r"\p{N}" + REST, False),
    "qwen3": ("qwen3", {}, CONTRACTIONS + r"\p{N}{1,3}" + REST, False),
    "command_r": ("command_r", {}, "digits", False),
    "command_r_plus": ("command_r_plus", {"num_hidden_layers": 64}, "digits", False),
}


def cuts_of(cuts):
    """A pre-tokenizer: GPT-2's words, the same with single digits, or a regular expression."""
    if cuts == "words":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if cuts == "digits":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cuts), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_tokenizer(cuts, ignore_merges, add_bos):
    """A byte-level BPE tokenizer of the demo's text, some ids short of the vocabulary."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = cuts_of(cuts)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - 9, special_tokens=[BOS, EOS],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    lines = TEXT.read_text(encoding="utf-8").splitlines()[:200]
    tokenizer.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    tokenizer.add_tokens([TOOL])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    return tokenizer


def make_model(folder, case, changes, seed):
    """The random model of make_tiny.py, with another vocabulary."""
    model_type, standard = make_tiny.CASES[case]
    config = AutoConfig.for_model(model_type, **{**make_tiny.SIZES, **standard, **changes,
                                                 "vocab_size": VOCAB})
    config.pad_token_id = None
    config.dtype = torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    make_tiny.randomise(model, seed)
    model.save_pretrained(folder)


def main():
    """Make all cases."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for seed, (name, (case, changes, cuts, ignore_merges)) in enumerate(CASES.items()):
        folder = Path(sys.argv[1]) / name
        make_model(folder, case, changes, seed)
        make_tokenizer(cuts, ignore_merges, name == "llama3").save(str(folder / "tokenizer.json"))
        settings = {"bos_token": BOS, "eos_token": {"content": EOS}, "tokenizer_class": "PreTrainedTokenizerFast",
                    "chat_template": "{{ messages }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


if __name__ == "__main__":
    main()
