#!/usr/bin/env python3
"""Give a model folder a SentencePiece tokenizer: tokenizer.model, and tokenizer.json as transformers has it.

    python tests/readers/llama_pieces.py FOLDER [TOKENIZER.model]

Without a model one is trained on the demo model's text, as Llama 2's was: BPE, bytes for what is
unknown, texts as they are with a space before them. Needs sentencepiece.
"""
import io
import json
import sys
from pathlib import Path

import sentencepiece

TEXT = Path(__file__).resolve().parents[2] / "models" / "demo" / "calibration.jsonl"


def train(vocab):
    """A model of so many pieces, as bytes."""
    model = io.BytesIO()
    lines = [json.loads(line)["text"] for line in TEXT.read_text(encoding="utf-8").splitlines()[:200]]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(lines).split("\n")), model_writer=model, vocab_size=vocab,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        minloglevel=2)
    return model.getvalue()


def merges_of(pieces):
    """All pairs of pieces that make another one, best score first."""
    found = []
    for whole, (_, score) in pieces.items():
        pairs = [(whole[:i], whole[i:]) for i in range(1, len(whole))]
        known = [pair for pair in pairs if pair[0] in pieces and pair[1] in pieces]
        found += [(-score, pieces[left][0], pieces[right][0], [left, right]) for left, right in known]
    return [pair for *_, pair in sorted(found)]


def tokenizer_json(model):
    """The tokenizer of a model, as transformers converts it."""
    names = [model.id_to_piece(i) for i in range(model.vocab_size())]
    normal = {name: (i, model.get_score(i)) for i, name in enumerate(names)
              if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))}
    special = [i for i in range(model.vocab_size()) if model.is_control(i) or model.is_unknown(i)]
    bos = model.id_to_piece(model.bos_id())
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": names[i], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i in special],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
                                      {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {bos: {"id": bos, "ids": [model.bos_id()], "tokens": [bos]}}},
        "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": names[model.unk_id()],
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False,
                  "vocab": {name: i for i, name in enumerate(names)}, "merges": merges_of(normal)}}


def main():
    """Write the files."""
    folder = Path(sys.argv[1])
    vocab = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    data = Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else train(vocab - 3)
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(model)), encoding="utf-8")
    settings = {"bos_token": model.id_to_piece(model.bos_id()), "eos_token": model.id_to_piece(model.eos_id()),
                "unk_token": model.id_to_piece(model.unk_id()), "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


if __name__ == "__main__":
    main()
