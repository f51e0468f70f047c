#!/usr/bin/env python3
"""What llama.cpp itself makes of a GGUF file: tokens of texts, and probabilities after prompts.

    python tests/readers/llama_answers.py MODEL.gguf PROMPTS.json >ANSWERS.json

PROMPTS.json comes from llama_parity.py. Needs xllamacpp, which holds llama.cpp's server.
"""
import json
import sys
import urllib.request
from pathlib import Path

import xllamacpp


def start(path, context):
    """A server of one thread for one file, on a free port of this machine."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = context
    params.n_gpu_layers = 0
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = -1
    params.port = 0
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def ask(server, what, question):
    """One request."""
    request = urllib.request.Request(f"{server.listening_address}/{what}",
                                     json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def log_probabilities(server, tokens, vocab):
    """Of every token of the vocabulary, after a prompt."""
    answer = ask(server, "completion", {"prompt": tokens, "n_predict": 1, "n_probs": vocab,
                                        "temperature": 0, "cache_prompt": False})
    result = [None] * vocab
    for token in answer["completion_probabilities"][0]["top_logprobs"]:
        result[token["id"]] = token["logprob"]
    return result


def main():
    """Answer all prompts."""
    prompts = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    server = start(sys.argv[1], 512)
    texts = [ask(server, "tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
             for text in prompts["texts"]]
    json.dump({"texts": texts, "logprobs": [log_probabilities(server, tokens, prompts["vocab"])
                                            for tokens in prompts["tokens"]]}, sys.stdout)


if __name__ == "__main__":
    main()
