"""The results file: one JSON object per line and cell; of two with one key the later counts."""
import json

KEPT = ("kl", "kl_interval", "top1", "top1_interval", "log_perplexity_difference",
        "log_perplexity_difference_interval", "perplexity", "reference_perplexity")


def read(path):
    """key -> record, in the order of the file."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {r["key"]: r for r in map(json.loads, lines)}


def append(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def shorter(value):
    """Six significant digits: enough for any table, and half the file."""
    if isinstance(value, list):
        return [shorter(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def figures(evaluation):
    """What is kept of the JSON of `mpiquant eval --json --per-document`."""
    documents = evaluation["per_document"]
    kept = {name: evaluation[name] for name in KEPT}
    kept["documents"] = {"tokens": documents["tokens"], "kl_sum": documents["kl_sum"]}
    return {k: shorter(v) if k != "documents" else {n: shorter(x) for n, x in v.items()}
            for k, v in kept.items()}


def record(cell, seconds, program, texts):
    """The line of a cell; texts: "heldout" and "other" to what eval printed."""
    return {"key": cell.key, "model": cell.model, "bits": cell.bits, "method": cell.method.name,
            "seed": cell.seed, "seconds": seconds, "program": program,
            **{name: figures(value) for name, value in texts.items()}}
