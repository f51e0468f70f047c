"""Markdown tables from the results file: means over seeds, intervals, ratios to the baseline."""
import math
from itertools import combinations

import numpy as np

from cells import BASELINE, METHODS, MODELS

TEXTS = {"heldout": "in domain", "other": "out of domain"}
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
HEAD = ("| method | seeds | KL in | ratio in | top-1 in | perplexity in | KL out | ratio out | top-1 out "
        "| perplexity out | CPU s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")


def student(freedom):
    """The 97.5 % quantile of Student's t (Cornish-Fisher; within 0.1 % from 8 degrees on)."""
    z = 1.959963984540054
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96,
             (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(t / freedom**(i + 1) for i, t in enumerate(terms))


def ratio(above, below):
    """Σ above / Σ below over documents and the half width of its 95 % interval (jackknife, t)."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    r, n, total = above.sum() / below.sum(), len(above), below.sum()
    moved = (above - r * below) / (total - below)
    return r, student(n - 1) * math.sqrt((n - 1) / n * (moved**2).sum())


def group(records):
    """(model, bits) -> method -> seed -> record."""
    tables = {}
    for r in records:
        by_method = tables.setdefault((r["model"], r["bits"]), {})
        by_method.setdefault(r["method"], {})[r["seed"]] = r
    return tables


def sums(seeds, text, chosen):
    """KL sums per document, averaged over the chosen seeds."""
    return np.mean([seeds[s][text]["documents"]["kl_sum"] for s in chosen], axis=0)


def against(method, base, text):
    """KL of a method divided by that of another, over the seeds that both have; None if none."""
    common = sorted(set(method) & set(base))
    if not common:
        return None
    return ratio(sums(method, text, common), sums(base, text, common))


def mean(seeds, text, name):
    return float(np.mean([r[text][name] for r in seeds.values()]))


def half_width(seeds, text, name):
    """Half of the interval over documents, averaged over the seeds."""
    widths = [np.ptp(r[text][name + "_interval"]) / 2 for r in seeds.values()]
    return float(np.mean(widths))


def kl_cell(seeds, text):
    """KL in thousandths with its interval over documents, and how far the seeds lie apart."""
    value, half = 1e3 * mean(seeds, text, "kl"), 1e3 * half_width(seeds, text, "kl")
    cell = f"{value:.3g} ± {half:.2g}"
    if len(seeds) > 1:
        cell += f" ({1e3 * np.std([r[text]['kl'] for r in seeds.values()], ddof=1):.2g})"
    return cell


def ratio_cell(pair):
    return "" if pair is None else f"{pair[0]:.2f} ± {pair[1]:.2f}"


def row(name, seeds, base):
    """One line of a table."""
    cells = [name, str(len(seeds))]
    for text in TEXTS:
        top1 = 100 * mean(seeds, text, "top1"), 100 * half_width(seeds, text, "top1")
        growth = "log_perplexity_difference"
        perplexity = 100 * mean(seeds, text, growth), 100 * half_width(seeds, text, growth)
        cells += [kl_cell(seeds, text), ratio_cell(against(seeds, base, text)),
                  f"{top1[0]:.1f} ± {top1[1]:.1f}", f"{perplexity[0]:+.2f} ± {perplexity[1]:.2f}"]
    seconds = [r["seconds"] for r in seeds.values() if r["seconds"] is not None]
    cells.append(f"{np.mean(seconds):.0f}" if seconds else "")
    return "| " + " | ".join(cells) + " |\n"


def direction(methods, text):
    """Of the pairs that KL tells apart: how many top-1, perplexity and every seed order alike."""
    counts = [0, 0, 0, 0]
    for a, b in combinations(methods.values(), 2):
        pair = against(a, b, text)
        if pair is None or abs(pair[0] - 1) <= pair[1]:
            continue
        sign = 1 if pair[0] > 1 else -1
        common = set(a) & set(b)
        counts[0] += 1
        counts[1] += sign * (mean(b, text, "top1") - mean(a, text, "top1")) > 0
        name = "log_perplexity_difference"
        counts[2] += sign * (mean(a, text, name) - mean(b, text, name)) > 0
        counts[3] += all(sign * (a[s][text]["kl"] - b[s][text]["kl"]) > 0 for s in common)
    return counts


def section(model, bits, methods):
    """Heading, table and the sentence about directions of one model and width."""
    order = [m.name for m in METHODS if m.name in methods]
    base = methods.get(BASELINE, {})
    text = f"### {model}, {bits} bits\n\n" + HEAD
    text += "".join(row(name, methods[name], base) for name in order) + "\n"
    for name, words in TEXTS.items():
        pairs, top1, perplexity, seeds = direction(methods, name)
        if pairs == 0:
            continue
        text += (f"{words.capitalize()}, KL tells {pairs} pairs of methods apart; the same way round: "
                 f"top-1 {top1}, perplexity {perplexity}, every common seed {seeds}.\n")
    return text


def programs(records):
    """A sentence with the versions that made the cells: those of ours are comparable within one solver."""
    names = sorted({r["program"] for r in records})
    return "Cells were made by " + ", ".join(names) + ".\n"


def tables(records):
    """All tables, models and widths in a fixed order, and what made their cells. Methods that are no
    longer measured are left out."""
    known = {m.name for m in METHODS}
    records = [r for r in records if r["method"] in known]
    grouped = group(records)
    order = sorted(grouped, key=lambda k: (list(MODELS).index(k[0]), -k[1]))
    parts = [section(model, bits, grouped[model, bits]) for model, bits in order]
    return "\n".join(parts + [programs(records)])


def replace(document, generated):
    """The document with what is between the markers replaced."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{generated}\n{END}{after}"
