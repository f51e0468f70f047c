#!/usr/bin/env bash
# Quantises the demo model and holds the outputs against the libraries that read them. GPTQ: logits of
# GPTQModel and transformers from the packed folder in float16, its weights bit for bit, and perplexity
# and KL of `mpiquant eval` in float32. compressed-tensors: weights bit for bit.
#   packed.sh PYTHON PROGRAM BITS:GROUP[:OPTION,...]...      PYTHON: of install.sh python
# OPTION: gptq_v2 or compressed-tensors, zero-points, or lm-head, on a copy of the model that has a head
# of its own.
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

# The arguments of `quantize` for a list of options; sets source and format.
options_of() {
    arguments=() source=$model format=gptq
    for option in ${1//,/ }; do
        case $option in
        gptq_v2 | compressed-tensors) format=$option ;;
        lm-head) source=$work/untied arguments+=(--lm-head) ;;
        *) arguments+=("--$option") ;;
        esac
    done
}

check_gptq() {
    "$python" tests/readers/logits.py "$1" --tokens "$work/heldout.h5" --precision f16
    "$python" tests/readers/exact_weights.py "$1" --reader gptqmodel --reader compressed-tensors
    "$program" eval "$1" --reference "$source" --tokens "$work/heldout.h5" --precision f32 \
        --json >"$work/ours.json"
    "$python" tests/parity/reference_forward.py "$1" --reference "$source" \
        --tokens "$work/heldout.h5" --precision f32 >"$work/theirs.json"
    .venv/bin/python tests/parity/same_figures.py "$work/ours.json" "$work/theirs.json"
}

for scheme in "$@"; do
    IFS=: read -r bits group options <<<"$scheme"
    options_of "$options"
    out=$work/w${bits}g$group$options
    "${MPIRUN[@]}" -n 2 "$program" quantize "$source" --calib "$work/calibration.h5" \
        --output "$out" --bits "$bits" --group-size "$group" --format "$format" \
        ${arguments[@]+"${arguments[@]}"}
    if [ "$format" = compressed-tensors ]; then
        "$python" tests/readers/exact_compressed.py "$out"
    else
        check_gptq "$out"
    fi
    rm -r "$out"
done
