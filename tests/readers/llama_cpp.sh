#!/usr/bin/env bash
# Holds model.gguf against llama.cpp itself: tokens, and probabilities beside those of transformers from
# the dense output of the same settings. Small random models of all families and tokenizers, and the
# demo model with every type of blocks.
#   llama_cpp.sh READERS LLAMA PROGRAM     READERS, LLAMA: of install.sh python, llama
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"
readers=$1 llama=$2 program=$3
find_mpirun
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Nothing is fetched: all that is loaded is in the folders.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
failed=0

# check MODEL OUT KL OPTION...: OUT is a folder for this check
check() {
    local model=$1 out=$2 kl=$3 form
    shift 3
    mkdir "$out"
    .venv/bin/python tools/mpiquant-calib models/demo/calibration.jsonl --tokenizer "$model" \
        --samples 8 --length 48 -o "$out/calib.h5" >"$out/log" 2>&1
    for form in gguf dense; do
        "${MPIRUN[@]}" -n 2 "$program" quantize "$model" --calib "$out/calib.h5" --preset fast \
            --format "$form" --group-size 32 --output "$out/$form" "$@" >>"$out/log" 2>&1 ||
            die "$(tail -n 3 "$out/log")"
    done
    "$readers" tests/readers/llama_parity.py prompts "$model" >"$out/prompts.json" 2>>"$out/log"
    "$llama" tests/readers/llama_answers.py "$out/gguf/model.gguf" "$out/prompts.json" \
        >"$out/answers.json" 2>>"$out/log" || die "$(tail -n 3 "$out/log")"
    "$readers" tests/readers/llama_parity.py compare "$out/dense" "$out/prompts.json" \
        "$out/answers.json" --kl "$kl" 2>>"$out/log" || failed=1
}

"$readers" tests/readers/llama_models.py "$work/models" 2>"$work/log" || die "$(tail -n 3 "$work/log")"
cp -r "$work/models/mistral" "$work/models/pieces"
"$llama" tests/readers/llama_pieces.py "$work/models/pieces"
for model in "$work"/models/*; do
    limit=2e-3
    case $model in *_plus) limit=2e-2 ;; esac # 64 blocks round one after the other
    check "$model" "$work/$(basename "$model")" "$limit" --bits 8
done
check models/demo "$work/demo-q4_0" 2e-3
check models/demo "$work/demo-q8_0" 2e-3 --bits 8
.venv/bin/python tests/parity/untie.py models/demo "$work/untied"
check "$work/untied" "$work/demo-head" 2e-3 --bits 8 --lm-head
# All but one layer as they were: little is rounded on the way.
check models/demo "$work/demo-kept" 1e-4 --bits 8 --layers 7:8 --skip '[qkvo]_proj|gate|up'
[ "$failed" = 0 ] || die "llama.cpp differs"
