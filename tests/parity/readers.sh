#!/usr/bin/env bash
# Quantises the demo model and holds the outputs against GPTQModel and transformers: logits from the
# packed folder in float16, its weights bit for bit, and perplexity and KL of `mpiquant eval` in float32.
#   readers.sh PYTHON PROGRAM BITS:GROUP[:OPTION]...      PYTHON: of tests/parity/setup_readers.sh
# OPTION: --zero-points, or --lm-head, on a copy of the model that has a head of its own.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"
python=$1 program=$2
shift 2
find_mpirun
model=models/demo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Nothing is fetched: all that is loaded is in the folders.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

tokens() {
    .venv/bin/python tools/mpiquant-calib "$model/$1.jsonl" --tokenizer "$model" --samples "$2" \
        --length 256 -o "$work/$1.h5"
}

tokens calibration 64
tokens heldout 4
.venv/bin/python tests/parity/untie.py "$model" "$work/untied"
for scheme in "$@"; do
    IFS=: read -r bits group option <<<"$scheme"
    out=$work/w${bits}g$group$option
    source=$model
    [ "$option" != --lm-head ] || source=$work/untied
    "${MPIRUN[@]}" -n 2 "$program" quantize "$source" --calib "$work/calibration.h5" \
        --output "$out" --bits "$bits" --group-size "$group" ${option:+"$option"}
    "$python" tests/parity/readers.py "$out" --tokens "$work/heldout.h5" --precision f16
    "$python" tests/parity/exact_weights.py "$out" --reader gptqmodel
    "$program" eval "$out" --reference "$source" --tokens "$work/heldout.h5" --precision f32 \
        --json >"$work/ours.json"
    "$python" tests/parity/reference_forward.py "$out" --reference "$source" \
        --tokens "$work/heldout.h5" --precision f32 >"$work/theirs.json"
    .venv/bin/python tests/parity/same_figures.py "$work/ours.json" "$work/theirs.json"
    rm -r "$out"
done
