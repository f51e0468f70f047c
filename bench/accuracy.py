#!/usr/bin/env python3
"""Measure how far quantised models are from their originals, ours and those of other tools.

    bench/accuracy.py prepare --work DIR              texts and token files (apt-get, dpkg-deb)
    bench/accuracy.py list [--only REGEX] [--all]     the cells that are still to be measured
    bench/accuracy.py run --work DIR [--only REGEX]   measures them, one line of results each
    bench/accuracy.py record KEY FOLDER --work DIR    measures a folder that is there already
    bench/accuracy.py table [--write]                 tables from the results; into docs/accuracy.md

A cell is a model, a width, a method and a calibration seed, such as demo/w4/best/s0. Cells in the
results file are skipped, so a run that was stopped goes on where it was. DIR holds the models
besides the demo model: third/ (tools/train_demo.py --family qwen3 --out DIR/third) and smollm2/
(tools/smollm2_to_hf.py); one that is missing is left out. Other tools run in environments of their
own: python -m venv ~/.cache/mpiquant/peers/NAME, then its pip install -r
bench/accuracy/requirements-NAME.txt, for llmcompressor and autoround; gptqmodel in the one that
`tests/readers/install.sh python` makes. A tool without one is left out.

Needs numpy, h5py and tokenizers (.venv of tools/setup).
"""
import argparse
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "accuracy"), str(ROOT / "tests/parity")]

import cells  # noqa: E402
import plain  # noqa: E402
import prepare  # noqa: E402
import results  # noqa: E402
import table  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mpiquant"
DOCUMENT = ROOT / "docs/accuracy.md"


def peer_python(tool):
    """The Python of a peer's environment."""
    folder = CACHE / ("readers" if tool == "gptqmodel" else f"peers/{tool}")
    return folder / "bin/python"


def missing(cell, work):
    """What a cell needs and is not there, or None."""
    if not (prepare.model_folder(work, cell.model) / "config.json").exists():
        return f"no model {prepare.model_folder(work, cell.model)}"
    tool = cell.method.tool
    if tool not in ("mpiquant", "rtn") and not peer_python(tool).exists():
        return f"no {peer_python(tool)}"
    return None


def command(cell, args, out):
    """The command that writes the quantised folder of a cell."""
    model = prepare.model_folder(args.work, cell.model)
    calib = prepare.calibration_file(args.work, cell.model, cell.seed)
    sizes = ["--bits", cell.bits, "--group-size", cells.GROUP]
    if cell.method.tool == "mpiquant":
        return [args.mpiquant, "quantize", model, "--calib", calib, "--output", out, *sizes,
                "--threads", args.threads, *cell.method.options]
    if cell.method.tool == "rtn":
        return [sys.executable, ROOT / "tests/parity/gptq_pack.py", model, out, *sizes]
    runner = HERE / "accuracy" / f"run_{cell.method.tool}.py"
    return [peer_python(cell.method.tool), runner, model, calib, out, *sizes,
            "--options", json.dumps(cell.method.options)]


def call(arguments, log, threads):
    """Run a command with its standard error in a file, beside which peers may leave files of their own;
    its standard output, or None if it failed."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false",
                       GPTQMODEL_CPU_WORKERS="2")
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run([str(a) for a in arguments], stdout=subprocess.PIPE, stderr=file,
                              env=environment, check=False, text=True, cwd=log.parent)
    if done.returncode == 0:
        return done.stdout
    print(f"  failed with exit code {done.returncode}: {log}", flush=True)
    return None


def cpu_seconds():
    """Of all finished child processes: does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def evaluate(cell, args, folder):
    """What eval says of a folder on both texts, or None. F32: BF16 arithmetic alone costs 5e-5."""
    texts = {}
    for name in table.TEXTS:
        printed = call([args.mpiquant, "eval", folder, "--reference",
                        prepare.model_folder(args.work, cell.model), "--tokens",
                        args.work / f"{cell.model}-{name}.h5", "--precision", "f32", "--json",
                        "--per-document", "--threads", args.threads],
                       folder.with_suffix(f".{name}.log"), args.threads)
        if printed is None:
            return None
        texts[name] = json.loads(printed)
    return texts


def commit():
    """Of this checkout: cells of ours are to be measured anew when the solver has changed since."""
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True,
                          text=True, check=False)
    return done.stdout.strip() or "unknown"


def program(cell, args):
    """Name and version of what made a cell."""
    if cell.method.tool == "rtn":
        return "tests/parity/gptq_pack.py"
    if cell.method.tool == "mpiquant":
        arguments = [args.mpiquant, "--version"]
    else:
        package = {"autoround": "auto-round"}.get(cell.method.tool, cell.method.tool)
        arguments = [peer_python(cell.method.tool), "-c", "import importlib.metadata as m; "
                     f"print('{package}', m.version('{package}'))"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    version = done.stdout.splitlines()[0]
    return f"{version}, commit {commit()}" if cell.method.tool == "mpiquant" else version


def measure(cell, args, folder, seconds):
    """Evaluate a quantised folder and add the line of its cell; whether that went well."""
    source = prepare.model_folder(args.work, cell.model)
    texts = evaluate(cell, args, plain.readable(folder, source))
    if texts is None:
        return False
    results.append(args.results, results.record(cell, seconds, program(cell, args), texts))
    print(f"  KL {texts['heldout']['kl']:.3e} in domain, {texts['other']['kl']:.3e} out of domain",
          flush=True)
    return True


def run_cell(cell, args):
    """Quantise, evaluate, add the line; whether that went well."""
    out = args.work / "out" / re.sub(r"\W+", "-", cell.key)
    out.parent.mkdir(exist_ok=True)
    plain.remove(out)
    print(cell.key, flush=True)
    begin = cpu_seconds()
    if call(command(cell, args, out), out.with_suffix(".log"), args.threads) is None:
        return False
    good = measure(cell, args, out, round(cpu_seconds() - begin, 1))
    if not args.keep:
        plain.remove(out)
    return good


def chosen(args):
    pattern = re.compile(args.only) if args.only else None
    done = () if getattr(args, "all", False) else results.read(args.results)
    return cells.select(cells.all_cells(), pattern, done)


def do_prepare(args):
    print("token files for:", ", ".join(prepare.prepare(args.work)))
    return 0


def do_list(args):
    for cell in chosen(args):
        print(cell.key)
    return 0


def do_run(args):
    good = True
    for cell in chosen(args):
        reason = missing(cell, args.work)
        if reason:
            print(f"{cell.key}: left out, {reason}")
        else:
            good = run_cell(cell, args) and good
    return 0 if good else 1


def do_record(args):
    return 0 if measure(cells.find(args.key), args, args.folder.resolve(), args.seconds) else 1


def do_table(args):
    generated = table.tables(results.read(args.results).values())
    if args.write:
        text = table.replace(DOCUMENT.read_text(encoding="utf-8"), generated)
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        print(generated)
    return 0


def parser():
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True)
    added = {}
    for name, function in (("prepare", do_prepare), ("list", do_list), ("run", do_run),
                           ("record", do_record), ("table", do_table)):
        added[name] = one = commands.add_parser(name)
        one.set_defaults(function=function)
        one.add_argument("--results", type=Path, default=HERE / "results/accuracy.jsonl")
    for name in ("prepare", "run", "record"):
        added[name].add_argument("--work", type=lambda p: Path(p).resolve(), required=True)
    for name in ("list", "run"):
        added[name].add_argument("--only", metavar="REGEX", help="cells whose key matches")
    for name in ("run", "record"):
        added[name].add_argument("--mpiquant", type=lambda p: Path(p).resolve(), default=ROOT / "build/mpiquant")
        added[name].add_argument("--threads", type=int, default=1)
    added["list"].add_argument("--all", action="store_true", help="also cells that are done")
    added["run"].add_argument("--keep", action="store_true", help="keep the quantised folders")
    added["record"].add_argument("key")
    added["record"].add_argument("folder", type=Path)
    added["record"].add_argument("--seconds", type=float, help="CPU time that quantising took")
    added["table"].add_argument("--write", action="store_true", help="into docs/accuracy.md")
    return top


if __name__ == "__main__":
    options = parser().parse_args()
    sys.exit(options.function(options))
