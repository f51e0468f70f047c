#!/usr/bin/env bash
# SmolLM2-135M at 4 bits, group 64: quantise on 2 ranks, verify, and hold the results of two presets
# against bounds a little above what they have reached. Half an hour; part of tests/all.
#   long_smollm2.sh SOURCE BUILD
set -euo pipefail
build_folder=$2
# shellcheck source=tools/common.sh
source "$1/tools/common.sh"
find_mpirun
python=.venv/bin/python
model=${XDG_CACHE_HOME:-$HOME/.cache}/mpiquant/smollm2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

$python tools/smollm2_to_hf.py -o "$model"
$python tools/mpiquant-calib models/demo/calibration.jsonl --tokenizer "$model" --samples 128 \
    --length 1024 -o "$work/calib.h5"
$python tools/mpiquant-calib models/demo/heldout.jsonl --tokenizer "$model" --samples 12 \
    --length 1024 -o "$work/heldout.h5"

# within PRESET BOUND: the divergence on held-out text, in nats a token.
within() {
    local preset=$1 bound=$2 out=$work/$1 begin=$SECONDS
    "${MPIRUN[@]}" -n 2 "$build_folder/mpiquant" quantize "$model" --calib "$work/calib.h5" \
        --output "$out" --bits 4 --group-size 64 --preset "$preset"
    echo "$preset: quantised in $((SECONDS - begin)) s"
    "$build_folder/mpiquant" verify "$out" --source "$model"
    "${MPIRUN[@]}" -n 2 "$build_folder/mpiquant" eval "$out" --reference "$model" \
        --tokens "$work/heldout.h5" --json >"$out.json"
    cat "$out.json"
    $python - "$out.json" "$bound" <<'END'
import json, sys
kl, bound = json.load(open(sys.argv[1]))["kl"], float(sys.argv[2])
sys.exit(0 if kl <= bound else f"KL {kl} is above the bound of {bound}")
END
}

within default 0.11
within best 0.065
