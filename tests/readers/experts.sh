#!/usr/bin/env bash
# Models with experts: packs small random ones of several families, and holds what GPTQModel and
# transformers load of them against our own readers (experts.py).
#   experts.sh PYTHON PROGRAM      PYTHON: of install.sh python
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"
python=$1 program=$2
find_mpirun
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Nothing is fetched: all that is loaded is in the folders.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
failed=0

.venv/bin/python tools/mpiquant-calib models/demo/calibration.jsonl --tokenizer models/demo \
    --samples 8 --length 64 -o "$work/calib.h5" >"$work/log" 2>&1
"$python" tests/readers/experts.py make "$work/models" 2>>"$work/log" || die "$(tail -n 3 "$work/log")"
for model in "$work"/models/*; do
    out=$work/$(basename "$model")
    mkdir "$out"
    for form in gptq compressed-tensors; do
        "${MPIRUN[@]}" -n 2 "$program" quantize "$model" --calib "$work/calib.h5" --preset fast \
            --format "$form" --group-size 32 --output "$out/$form" >>"$work/log" 2>&1 ||
            die "$(tail -n 3 "$work/log")"
    done
    "$python" tests/readers/experts.py check "$model" "$out/gptq" "$out/compressed-tensors" \
        >"$out/lines" 2>>"$work/log" || failed=1
    grep -E ' (loads|fails) ' "$out/lines" || die "$(tail -n 3 "$work/log")"
done
[ "$failed" = 0 ] || die 'readers of experts differ from what is known of them'
