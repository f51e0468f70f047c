#!/usr/bin/env python3
"""Train the demo model in models/demo from Debian documentation packages.

The work is split in stages, each of which leaves its result in the work
directory and is skipped when that result already exists:

  fetch      download and unpack the packages (apt-get, dpkg-deb; no root)
  text       HTML to plain text, filtering, de-duplication, held-out split
  tokenizer  train the byte-level BPE tokenizer
  train      train the model on the CPU
  export     write the model folder (BF16 safetensors, tokenizer, texts)
  check      load the folder with transformers, perplexity, RTN at 3/4 bits

Example:
  tools/train_demo.py --work /tmp/demo --out models/demo all

Needs: torch, transformers, tokenizers, safetensors, numpy.
"""

import argparse
import hashlib
import html.parser
import json
import math
import os
import random
import re
import subprocess
import time
from pathlib import Path

SEED = 20240229
VOCAB_SIZE = 4096
CONTEXT = 512
EOS = "<|endoftext|>"

# package -> (glob patterns below the unpacked package, licence of the text)
PACKAGES = {
    "apache2-doc": (["usr/share/doc/apache2-doc/manual/en/**/*.html"],
                    "Apache-2.0"),
    "apt-doc": (["usr/share/doc/apt-doc/*.html/*.html"], "GPL-2+"),
    "aptitude-doc-en": (["usr/share/doc/aptitude/html/en/*.html"], "GPL-2+"),
    "bind9-doc": (["usr/share/doc/bind9-doc/arm/*.html"], "MPL-2.0"),
    "clang-19-doc": (["usr/share/doc/clang-19/html/*.html"],
                     "Apache-2.0 with LLVM exceptions"),
    "debian-handbook": (["usr/share/doc/debian-handbook/html/en-US/*.html"],
                        "GPL-2+ or CC-BY-SA-3.0"),
    "debian-history": (["usr/share/doc/debian-history/docs/*.en.html"],
                       "GPL-2+"),
    "debian-kernel-handbook": (
        ["usr/share/doc/debian-kernel-handbook/**/*.html"], "GPL-2+"),
    "debian-policy": (["usr/share/doc/debian-policy/policy.html/ch-*.html",
                       "usr/share/doc/debian-policy/policy.html/ap-p*.html"],
                      "GPL-2+"),
    "debian-reference-en": (["usr/share/debian-reference/ch*.html"], "GPL-2+"),
    "debmake-doc": (["usr/share/doc/debmake-doc/html/*.en.html"], "Expat"),
    "developers-reference": (["usr/share/developers-reference/*.html"],
                             "GPL-2+"),
    "exim4-doc-html": (["usr/share/doc/exim4-doc-html/spec_html/*.html"],
                       "GPL-2+"),
    "git-doc": (["usr/share/doc/git/html/**/*.html",
                 "usr/share/doc/git-doc/**/*.html"], "GPL-2"),
    "harden-doc": (["usr/share/doc/harden-doc/html/en-US/*.html"], "GPL-2"),
    "installation-guide-amd64": (
        ["usr/share/doc/installation-guide-amd64/en/*.html"], "GPL-2"),
    "linux-doc-6.1": (["usr/share/doc/linux-doc-6.1/html/%s/**/*.html" % d
                       for d in ("RCU", "admin-guide", "block", "core-api",
                                 "filesystems", "kernel-hacking", "livepatch",
                                 "locking", "mm", "networking", "process",
                                 "scheduler", "security", "virt")], "GPL-2"),
    "live-manual-html": (
        ["usr/share/doc/live-manual/html/live-manual/**/*.en.html"], "GPL-3+"),
    "llvm-19-doc": (["usr/share/doc/llvm-19-doc/html/*.html"],
                    "Apache-2.0 with LLVM exceptions"),
    "maint-guide": (["usr/share/doc/maint-guide/html/*.en.html"], "GPL-2+"),
    "postfix-doc": (["usr/share/doc/postfix/html/*.html"],
                    "EPL-2.0 or IPL-1.0"),
    "postgresql-doc-15": (["usr/share/doc/postgresql-doc-15/html/*.html"],
                          "PostgreSQL"),
    "python-django-doc": (
        ["usr/share/doc/python-django-doc/html/**/*.html"], "BSD-3-Clause"),
    "python-sqlalchemy-doc": (
        ["usr/share/doc/python-sqlalchemy-doc/html/**/*.html"], "Expat"),
    "python3.11-doc": (["usr/share/doc/python3.11/html/**/*.html"], "PSF-2"),
    "rust-doc": (["usr/share/doc/rust-doc/html/%s/**/*.html" % d for d in
                  ("book", "reference", "nomicon", "edition-guide",
                   "embedded-book", "rustc")], "Expat or Apache-2.0"),
    "sqlite3-doc": (["usr/share/doc/sqlite3/**/*.html"], "public domain"),
}

# Paths never used: translations, indexes, and parts under another licence.
EXCLUDE = re.compile(
    r"/translations/|/admin-guide/media/|genindex|bookindex|/search\.html"
    r"|doc_\w+_crossref|keyword_index|ap-license|/_sources/|/LICENSE|/license"
    r"|/print\.html|copyright|/releaselog/")

# The texts that are shipped (held-out and calibration) come from these only.
SHIPPED = ("postgresql-doc-15", "sqlite3-doc", "python-django-doc")
CALIBRATION_BYTES = 700_000
CALIBRATION_RECORD = 6_000

# Held out as whole chapters (PostgreSQL) or whole pages (SQLite, Django); no
# paragraph of them stays in the training text.
HELD_OUT_CHAPTERS = ("13", "14", "30")
HELD_OUT_SQLITE = ("whentouse", "isolation", "howtocorrupt", "rowvalue")
HELD_OUT_DJANGO = re.compile(r"/html/howto/(?!custom-)")

STOP_WORDS = frozenset("the of to a an is are and in for that this be it on "
                       "with as by or if you not can which".split())


def model_config(family):
    """Return the transformers configuration: the demo model's (llama), or a smaller one (qwen3)."""
    import transformers
    common = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT,
              "rope_theta": 10000.0, "tie_word_embeddings": True,
              "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0,
              "pad_token_id": None, "attention_bias": False}
    if family == "qwen3":
        return transformers.Qwen3Config(
            hidden_size=192, intermediate_size=512, num_hidden_layers=6,
            num_attention_heads=6, head_dim=32, rms_norm_eps=1e-6, **common)
    return transformers.LlamaConfig(
        hidden_size=256, intermediate_size=768, num_hidden_layers=8,
        num_attention_heads=4, head_dim=64, rms_norm_eps=1e-5, mlp_bias=False,
        **common)


# --------------------------------------------------------------------------
# fetch

def stage_fetch(args):
    """Download the packages and unpack them below the work directory."""
    debs, root = args.work / "deb", args.work / "root"
    debs.mkdir(parents=True, exist_ok=True)
    missing = [p for p in PACKAGES if not list(debs.glob(p + "_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=debs, check=True)
    versions = {}
    for package in PACKAGES:
        deb = sorted(debs.glob(package + "_*.deb"))[-1]
        if not (root / package).is_dir():
            (root / package).mkdir(parents=True)
            subprocess.run(["dpkg-deb", "-x", deb, root / package], check=True)
        field = subprocess.run(["dpkg-deb", "-f", deb, "Version"],
                               capture_output=True, text=True, check=True)
        versions[package] = field.stdout.strip()
    (args.work / "versions.json").write_text(json.dumps(versions, indent=1))


# --------------------------------------------------------------------------
# text

class Prose(html.parser.HTMLParser):
    """Collect the running text of an HTML page as a list of paragraphs.

    Navigation, tables, and program listings are left out.
    """

    BLOCK = frozenset("p li dt dd h1 h2 h3 h4 h5 h6 div section blockquote "
                      "article br hr ul ol dl body".split())
    SKIP = frozenset("script style head nav footer pre table svg button "
                     "select form title".split())
    SKIP_CLASS = re.compile(
        r"\b(navheader|navfooter|sphinxsidebar|related|headerlink|toc|"
        r"toctree-wrapper|footer|docnav|breadcrumbs|highlight|nosearch|"
        r"nav-chapters|sidebar|menu|literallayout|contents|copyright|"
        r"legalnotice|synopsis)\b")
    VOID = frozenset("br hr img meta link input area base col wbr".split())

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs, self.parts = [], []
        self.skip_tag, self.skip_depth = None, 0

    def flush(self):
        """End the current paragraph."""
        text = " ".join("".join(self.parts).replace("\u00b6", "").split())
        self.parts = []
        if text:
            self.paragraphs.append(text)

    def handle_starttag(self, tag, attrs):
        """Open a block, or start or deepen a skipped element."""
        if self.skip_tag:
            self.skip_depth += tag == self.skip_tag
            return
        if tag in self.BLOCK:
            self.flush()
        if tag in self.VOID:
            return
        names = " ".join(v or "" for k, v in attrs if k in ("class", "role"))
        if tag in self.SKIP or (tag not in ("body", "html") and
                                self.SKIP_CLASS.search(names)):
            self.skip_tag, self.skip_depth = tag, 1

    def handle_startendtag(self, tag, attrs):
        """A self-closing element only ends a paragraph."""
        if not self.skip_tag and tag in self.BLOCK:
            self.flush()

    def handle_endtag(self, tag):
        """Close a block or a skipped element."""
        if self.skip_tag:
            if tag == self.skip_tag:
                self.skip_depth -= 1
                if self.skip_depth == 0:
                    self.skip_tag = None
        elif tag in self.BLOCK:
            self.flush()

    def handle_data(self, data):
        """Keep text outside skipped elements."""
        if not self.skip_tag:
            self.parts.append(data)


def clean(text):
    """Replace typographic characters by plain ones, strip section numbers."""
    for old, new in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'),
                     ("\u201d", '"'), ("\u2014", " - "), ("\u2013", "-"),
                     ("\u2026", "..."), ("\u00ad", ""), ("\u200b", ""),
                     ("\u2212", "-"), ("\u2192", "->")):
        text = text.replace(old, new)
    text = re.sub(r"^((Chapter|Appendix) )?[0-9A-Z]{1,2}(\.[0-9]+)*\.? "
                  r"(?=[A-Z])", "", text)
    return " ".join(text.split())


def is_prose(text):
    """Tell whether a paragraph looks like English sentences."""
    words = text.split()
    if len(words) < 6 or len(text) < 40 or len(text) > 8000:
        return False
    letters = sum(c.isalpha() or c == " " for c in text)
    if letters < 0.82 * len(text):
        return False
    if sum(ord(c) > 126 for c in text) > 0.02 * len(text):
        return False
    stops = sum(w.lower() in STOP_WORDS for w in words)
    return stops >= 0.15 * len(words) and max(map(len, words)) < 80


def is_held_out(package, path, raw):
    """Tell whether a page belongs to the held-out text."""
    if package == "postgresql-doc-15":
        chapter = re.search(
            r'<th width="60%" align="center">Chapter\s+(\d+)\.', raw)
        return bool(chapter) and chapter.group(1) in HELD_OUT_CHAPTERS
    if package == "sqlite3-doc":
        return path.stem in HELD_OUT_SQLITE
    return (package == "python-django-doc" and
            bool(HELD_OUT_DJANGO.search(str(path))))


def key(text):
    """Return a hash of a paragraph that ignores case and punctuation."""
    plain = re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
    return hashlib.blake2b(plain.encode(), digest_size=12).digest()


def read_pages(root):
    """Yield (package, path, held_out, paragraphs) for all pages in order."""
    for package, (patterns, _) in sorted(PACKAGES.items()):
        base = root / package
        paths = sorted({p for g in patterns for p in base.glob(g)
                        if p.is_file() and not p.is_symlink()})
        for path in paths:
            name = str(path.relative_to(base))
            if EXCLUDE.search("/" + name):
                continue
            raw = path.read_text(encoding="utf-8", errors="replace")
            parser = Prose()
            parser.feed(raw)
            parser.close()
            parser.flush()
            lines = [clean(p) for p in parser.paragraphs]
            yield package, name, is_held_out(package, path, raw), lines


def stage_text(args):
    """Write train.jsonl, heldout.jsonl and calibration.jsonl."""
    if (args.work / "train.jsonl").exists():
        return
    pages = list(read_pages(args.work / "root"))
    reserved = {key(p) for _, _, held, lines in pages if held for p in lines}
    seen, records = set(), {True: [], False: []}
    for package, name, held, lines in pages:
        kept, heading = [], None
        for line in lines:
            if not is_prose(line):
                short = len(line) < 80 and re.fullmatch(r"[\w ,'\"()/-]+", line)
                heading = line if short and line[0].isupper() else None
                continue
            k = key(line)
            if k in seen or (not held and k in reserved):
                heading = None
                continue
            seen.add(k)
            if heading and (held or key(heading) not in reserved):
                kept.append(heading)
            heading = None
            kept.append(line)
        text = "\n\n".join(kept)
        if len(text) >= 300:
            records[held].append({"package": package, "source": name,
                                  "text": text})
    held_paragraphs = {key(p) for r in records[True]
                       for p in r["text"].split("\n\n")}
    shared = sum(key(p) in held_paragraphs for r in records[False]
                 for p in r["text"].split("\n\n"))
    if shared:
        raise SystemExit("held-out text leaks into the training text")

    rng = random.Random(SEED)
    pool = [r for r in records[False] if r["package"] in SHIPPED]
    rng.shuffle(pool)
    calibration, size = [], 0
    for r in pool:
        if size >= CALIBRATION_BYTES:
            break
        text = r["text"]
        if len(text) > CALIBRATION_RECORD:
            text = text[:text.rfind("\n\n", 0, CALIBRATION_RECORD)]
        if not 600 <= len(text) <= CALIBRATION_RECORD:
            continue
        calibration.append(dict(r, text=text))
        size += len(text.encode())
    rng.shuffle(records[False])
    write_jsonl(args.work / "heldout.jsonl", records[True])
    write_jsonl(args.work / "calibration.jsonl", calibration)
    write_jsonl(args.work / "train.jsonl", records[False])
    stats = {}
    for r in records[False] + records[True]:
        s = stats.setdefault(r["package"], [0, 0])
        s[0] += 1
        s[1] += len(r["text"].encode())
    stats["held-out"] = [len(records[True]),
                         sum(len(r["text"].encode()) for r in records[True])]
    stats["calibration"] = [len(calibration), size]
    (args.work / "text.json").write_text(json.dumps(stats, indent=1))
    for name, (n, b) in stats.items():
        print(f"{name:28s} {n:6d} pages {b / 1e6:8.3f} MB")


def write_jsonl(path, records):
    """Write records, one JSON object per line."""
    with open(path, "w", encoding="utf-8") as f:
        for r in records:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")


def read_texts(path):
    """Return the "text" members of a JSON-lines file."""
    with open(path, encoding="utf-8") as f:
        return [json.loads(line)["text"] for line in f]


# --------------------------------------------------------------------------
# tokenizer

def stage_tokenizer(args):
    """Train the byte-level BPE tokenizer and encode the training text."""
    import numpy as np
    from tokenizers import (Tokenizer, decoders, models, pre_tokenizers,
                            trainers)
    if (args.work / "train.npy").exists():
        return
    texts = read_texts(args.work / "train.jsonl")
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[EOS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts, trainer)
    tok.save(str(args.work / "tokenizer.json"))
    np.save(args.work / "train.npy", encode(tok, texts))
    held = read_texts(args.work / "heldout.jsonl")
    np.save(args.work / "heldout.npy", encode(tok, held))
    print("training tokens", len(np.load(args.work / "train.npy")),
          "held-out tokens", len(np.load(args.work / "heldout.npy")))


def encode(tok, texts):
    """Return all texts as one array, each text preceded by the EOS token."""
    import numpy as np
    ids = []
    for e in tok.encode_batch(texts):
        ids.append(0)
        ids.extend(e.ids)
    return np.array(ids, dtype=np.uint16)


# --------------------------------------------------------------------------
# train

def batches(data, rng, length, size):
    """Yield batches of windows, in a new random order every epoch."""
    import numpy as np
    while True:
        offset = int(rng.integers(length))
        starts = np.arange(offset, len(data) - length, length)
        rng.shuffle(starts)
        for i in range(0, len(starts) - size + 1, size):
            yield np.stack([data[s:s + length] for s in starts[i:i + size]])


def mean_loss(model, data, autocast=False, limit=None):
    """Mean loss per token over consecutive windows of CONTEXT tokens.

    The first token of every window is context only and not scored.
    """
    import torch
    total = count = 0
    windows = len(data) // CONTEXT if limit is None else limit
    model.eval()
    with torch.inference_mode():
        for i in range(0, windows, 8):
            part = data[i * CONTEXT:min(i + 8, windows) * CONTEXT]
            x = torch.from_numpy(part.astype("int64")).view(-1, CONTEXT)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = model(input_ids=x, use_cache=False).logits
            total += torch.nn.functional.cross_entropy(
                logits[:, :-1].float().reshape(-1, VOCAB_SIZE),
                x[:, 1:].reshape(-1), reduction="sum").item()
            count += x[:, 1:].numel()
    model.train()
    return total / count


def stage_train(args):
    """Train with AdamW and a cosine schedule, bounded by time or steps."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM
    checkpoint = args.work / f"{args.family}.pt"
    if checkpoint.exists():
        return
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(SEED)
    data = np.load(args.work / "train.npy")
    held = np.load(args.work / "heldout.npy")
    model = AutoModelForCausalLM.from_config(model_config(args.family),
                                             attn_implementation="sdpa")
    model.train()
    run = torch.compile(model, dynamic=False) if args.compile else model
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1},
         {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.95), fused=True)
    # Short windows first, full windows for the last part: cheaper attention.
    short = batches(data, rng, CONTEXT // 2, args.batch_tokens * 2 // CONTEXT)
    full = batches(data, rng, CONTEXT, args.batch_tokens // CONTEXT)
    start, step, tokens, log = time.time(), 0, 0, []
    limit, first_full = args.minutes * 60, None
    while True:
        elapsed = time.time() - start
        done = step / args.steps if args.steps else elapsed / limit
        if done >= 1:
            break
        if args.full_from:
            use_full = step >= args.full_from
        else:
            use_full = done >= 0.6
        if use_full and first_full is None:
            first_full = step
        warm = min(1.0, (step + 1) / args.warmup)
        lr = args.lr * warm * (0.02 + 0.98 * 0.5 *
                               (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        x = torch.from_numpy(next(full if use_full else short).astype("int64"))
        with torch.autocast("cpu", torch.bfloat16):
            logits = run(input_ids=x, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].reshape(-1, VOCAB_SIZE), x[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        tokens += x.numel()
        if step % 20 == 0:
            print(f"step {step} loss {loss.item():.4f} lr {lr:.2e} "
                  f"tokens {tokens} time {time.time() - start:.0f}s",
                  flush=True)
        if step % args.eval_every == 0:
            h = mean_loss(model, held, autocast=True, limit=24)
            log.append([step, tokens, round(h, 4)])
            print(f"  held-out (part) perplexity {math.exp(h):.2f}",
                  flush=True)
    torch.save(model.state_dict(), checkpoint)
    h = mean_loss(model, held, autocast=True)
    print(f"final held-out perplexity {math.exp(h):.3f}", flush=True)
    info = {"seed": SEED, "steps": step, "full_from": first_full,
            "tokens": tokens, "train_tokens": len(data), "lr": args.lr,
            "batch_tokens": args.batch_tokens, "warmup": args.warmup,
            "minutes": round((time.time() - start) / 60, 1),
            "threads": args.threads, "compile": args.compile,
            "torch": torch.__version__, "heldout_log": log}
    (args.work / f"train-{args.family}.json").write_text(json.dumps(info, indent=1))


# --------------------------------------------------------------------------
# export

def stage_export(args):
    """Write the model folder."""
    import shutil
    import torch
    from transformers import (AutoModelForCausalLM, GenerationConfig,
                              PreTrainedTokenizerFast)
    args.out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_config(model_config(args.family))
    model.load_state_dict(torch.load(args.work / f"{args.family}.pt"))
    model.tie_weights()
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0)
    model.save_pretrained(args.out)
    # Write these two also under the names that older versions read.
    config = json.loads((args.out / "config.json").read_text())
    config["torch_dtype"] = "bfloat16"
    config["rope_theta"] = 10000.0
    (args.out / "config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n")
    tok = PreTrainedTokenizerFast(
        tokenizer_file=str(args.work / "tokenizer.json"), bos_token=EOS,
        eos_token=EOS, model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False)
    tok.save_pretrained(args.out)
    # Keep the tokenizer as trained (nothing added around a text) and name the
    # class that all versions of transformers know.
    shutil.copy(args.work / "tokenizer.json", args.out / "tokenizer.json")
    settings = json.loads((args.out / "tokenizer_config.json").read_text())
    settings.pop("backend", None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (args.out / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n")
    (args.out / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": EOS, "eos_token": EOS}, indent=2) + "\n")
    (args.out / "model.safetensors").chmod(0o644)
    for name in ("heldout.jsonl", "calibration.jsonl"):
        shutil.copy(args.work / name, args.out / name)


# --------------------------------------------------------------------------
# check

def round_to_nearest(weight, bits, group):
    """Symmetric absmax rounding, one scale per row and group of columns."""
    top = 2 ** (bits - 1) - 1
    w = weight.reshape(weight.shape[0], -1, group)
    scale = w.abs().amax(-1, keepdim=True).clamp_min(1e-12) / top
    return ((w / scale).round().clamp(-top - 1, top) * scale).reshape(
        weight.shape)


def stage_check(args):
    """Perplexity of the exported folder, plain and after plain rounding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(args.threads)
    tok = AutoTokenizer.from_pretrained(args.out)
    texts = read_texts(args.out / "heldout.jsonl")
    import numpy as np
    ids = []
    for t in texts:
        ids += [tok.eos_token_id] + tok(t)["input_ids"]
    data = np.array(ids, dtype=np.uint16)
    size = sum(len(t.encode()) for t in texts)
    words = sum(len(t.split()) for t in texts)

    def load():
        return AutoModelForCausalLM.from_pretrained(args.out,
                                                    dtype=torch.float32)

    result = {"records": len(texts), "tokens": len(ids), "bytes": size,
              "words": words}
    model = load()
    loss = mean_loss(model, data)
    result["perplexity"] = math.exp(loss)
    result["byte_perplexity"] = math.exp(loss * len(ids) / size)
    result["bits_per_byte"] = loss * len(ids) / size / math.log(2)
    result["word_perplexity"] = math.exp(loss * len(ids) / words)
    for prompt in ("PostgreSQL provides a way to",
                   "The package maintainer should"):
        x = tok(prompt, return_tensors="pt")["input_ids"]
        y = model.generate(x, attention_mask=torch.ones_like(x),
                           max_new_tokens=50, do_sample=False,
                           pad_token_id=0)
        print(repr(tok.decode(y[0])))
    for bits in (8, 4, 3):
        model = load()
        with torch.no_grad():
            for layer in model.model.layers:
                for m in layer.modules():
                    if isinstance(m, torch.nn.Linear):
                        m.weight.copy_(round_to_nearest(m.weight, bits, 128))
        result[f"rtn{bits}_perplexity"] = math.exp(mean_loss(model, data))
    print(json.dumps(result, indent=1))
    (args.work / f"check-{args.family}.json").write_text(json.dumps(result, indent=1))


def main():
    """Parse the command line and run the wanted stages."""
    stages = {"fetch": stage_fetch, "text": stage_text,
              "tokenizer": stage_tokenizer, "train": stage_train,
              "export": stage_export, "check": stage_check}
    ap = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("stage", nargs="+", choices=[*stages, "all"])
    ap.add_argument("--work", type=Path, required=True,
                    help="directory for packages, texts and checkpoints")
    ap.add_argument("--out", type=Path, default=Path("models/demo"))
    ap.add_argument("--family", choices=("llama", "qwen3"), default="llama",
                    help="llama: the demo model; qwen3: a smaller one")
    ap.add_argument("--minutes", type=float, default=35,
                    help="length of the training run")
    ap.add_argument("--steps", type=int,
                    help="train exactly this many steps instead")
    ap.add_argument("--full-from", type=int,
                    help="first step with full windows (default: at 60 %%)")
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--warmup", type=int, default=150)
    ap.add_argument("--batch-tokens", type=int, default=4096)
    ap.add_argument("--eval-every", type=int, default=200)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--compile", action="store_true",
                    help="use torch.compile (needs a C++ compiler)")
    args = ap.parse_args()
    args.work = args.work.resolve()
    wanted = list(stages) if "all" in args.stage else args.stage
    for name in stages:
        if name in wanted:
            print(f"== {name}", flush=True)
            stages[name](args)


if __name__ == "__main__":
    main()
