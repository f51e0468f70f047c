"""What is measured: models, methods, and the cells (model, bits, method, seed) they make."""
from dataclasses import dataclass, field

GROUP = 64
BASELINE = "gptqmodel-default"      # what the tables give ratios to


@dataclass(frozen=True)
class Model:
    """Sizes of the token files: samples of `length` tokens, for calibration and for evaluation."""
    calibration: int
    length: int
    evaluation: int


@dataclass(frozen=True)
class Method:
    """How a cell is made: `options` are arguments of mpiquant, or settings of a peer's runner."""
    name: str
    tool: str
    options: object = field(default=(), hash=False)
    bits: tuple = (4, 3)
    seeds: tuple = (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    model: str
    bits: int
    method: Method
    seed: int

    @property
    def key(self):
        return f"{self.model}/w{self.bits}/{self.method.name}/s{self.seed}"


MODELS = {
    "demo": Model(128, 512, 48),
    "third": Model(128, 512, 48),
    "smol": Model(128, 1024, 12),
}


def ours(name, *options, **rest):
    return Method(name, "mpiquant", options, **rest)


def step(name, *options, seeds=(0, 1, 2)):
    """One option away from the default preset."""
    return ours("default, " + name, *options, seeds=seeds)


PRESETS = (4, 3, 2)
METHODS = (
    Method("rtn", "rtn", bits=PRESETS, seeds=(0,)),
    ours("fast", "--preset", "fast", bits=PRESETS),
    ours("default", bits=PRESETS),
    ours("best", "--preset", "best", bits=PRESETS),
    step("couple-rows 0", "--couple-rows", "0"),
    step("shrinkage 0", "--shrinkage", "0"),
    step("shrinkage 0.1", "--shrinkage", "0.1"),
    step("damp 0.05", "--damp", "0.05"),
    step("refine 0", "--refine", "0"),
    step("refine 4", "--refine", "4"),
    step("scale-search fast", "--scale-search", "fast"),
    step("alpha 0.5", "--alpha", "0.5"),
    step("alpha 0.75", "--alpha", "0.75"),
    step("alpha 1", "--alpha", "1"),
    step("scale-columns 0", "--scale-columns", "0"),
    ours("best, alpha 0.75", "--preset", "best", "--alpha", "0.75"),
    ours("best, alpha 1", "--preset", "best", "--alpha", "1"),
    ours("best, scale-columns 0", "--preset", "best", "--scale-columns", "0"),
    step("column-order groups", "--column-order", "groups", seeds=(0,)),
    step("column-order original", "--column-order", "original", seeds=(0,)),
    step("zero-points", "--zero-points", seeds=(0,)),
    step("positive-scales", "--positive-scales", seeds=(0,)),
    Method(BASELINE, "gptqmodel", {}, bits=PRESETS),
    Method("gptqmodel-mse", "gptqmodel", {"mse": 2.0}),
    Method("gptqmodel-mse-actorder", "gptqmodel",
           {"mse": 2.0, "desc_act": True, "act_group_aware": False}),
    Method("gptqmodel-mse-gptaq", "gptqmodel", {"mse": 2.0, "gptaq": True}),
    Method("llmcompressor-default", "llmcompressor", {}),
    Method("llmcompressor-mse", "llmcompressor", {"observer": "mse"}),
    Method("llmcompressor-imatrix", "llmcompressor", {"observer": "imatrix_mse"}),
    Method("llmcompressor-no-order", "llmcompressor", {"actorder": None}),
    Method("autoround-default", "autoround", {}, seeds=(0,)),
)


def all_cells():
    """Every cell, those that matter most first within a model."""
    return [Cell(model, bits, method, seed) for model in MODELS for method in METHODS
            for bits in method.bits for seed in method.seeds]


def select(cells, pattern=None, done=()):
    """The cells whose key matches the expression (searched anywhere) and that are not done."""
    return [c for c in cells if c.key not in done and (pattern is None or pattern.search(c.key))]


def find(key):
    """The cell of a key; KeyError if there is none."""
    return {c.key: c for c in all_cells()}[key]
