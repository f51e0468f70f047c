"""Texts and token files, the same for every tool.

In the work folder: demo/ (texts of tools/train_demo.py), other/other.jsonl (quotations of Debian's
fortunes, joined to documents of about 3,000 characters), and per model NAME
NAME-calib.h5, NAME-calib-s1.h5, NAME-calib-s2.h5 (the seeds), NAME-heldout.h5, NAME-other.h5.
"""
import json
import subprocess
import sys
from pathlib import Path

from cells import MODELS

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("law literature medicine people politics science sports wisdom education food love kids "
            "pets work men-women news platitudes").split()
DOCUMENT = 3000     # characters
SEEDS = (0, 1, 2)


def model_folder(work, name):
    """Where a model is: the demo model in the repository, the others in the work folder."""
    return {"demo": ROOT / "models/demo", "smol": work / "smollm2"}.get(name, work / name)


def calibration_file(work, name, seed):
    return work / (f"{name}-calib-s{seed}.h5" if seed else f"{name}-calib.h5")


def join(quotations):
    """Documents of a little more than DOCUMENT characters; the last may be shorter."""
    documents, document = [], ""
    for quotation in quotations:
        document += quotation + "\n\n"
        if len(document) > DOCUMENT:
            documents.append(document)
            document = ""
    return documents + [document] * bool(document)


def quotations(path):
    """The quotations of a file of fortunes."""
    parts = path.read_text(encoding="utf-8", errors="replace").split("\n%\n")
    return [part.strip() for part in parts if part.strip()]


def other_text(work):
    """other/other.jsonl from the packages fortunes and fortunes-min; no root needed."""
    target = work / "other/other.jsonl"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    packages = ("fortunes", "fortunes-min")
    subprocess.run(["apt-get", "download", *packages], cwd=target.parent, check=True)
    for package in packages:
        deb = next(target.parent.glob(package + "_*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb, target.parent / "root"], check=True)
    source = target.parent / "root/usr/share/games/fortunes"
    documents = [d for name in SECTIONS for d in join(quotations(source / name))]
    target.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    return target


def demo_text(work):
    """demo/train.jsonl and demo/heldout.jsonl."""
    folder = work / "demo"
    if not (folder / "train.jsonl").exists():
        subprocess.run([sys.executable, ROOT / "tools/train_demo.py", "--work", folder, "fetch",
                        "text"], check=True)
    return folder


def tokens(text, model, output, samples, length, seed=0):
    """One token file, if it is not there."""
    if not output.exists():
        subprocess.run([sys.executable, ROOT / "tools/mpiquant-calib", text, "--tokenizer", model,
                        "--samples", str(samples), "--length", str(length), "--seed", str(seed),
                        "-o", output], check=True)


def prepare(work):
    """Everything for the models that are there; the names of those."""
    demo, other = demo_text(work), other_text(work)
    present = [n for n in MODELS if (model_folder(work, n) / "config.json").exists()]
    for name in present:
        size, model = MODELS[name], model_folder(work, name)
        for seed in SEEDS:
            tokens(demo / "train.jsonl", model, calibration_file(work, name, seed),
                   size.calibration, size.length, seed)
        for kind, text in (("heldout", demo / "heldout.jsonl"), ("other", other)):
            tokens(text, model, work / f"{name}-{kind}.h5", size.evaluation, size.length)
    return present
