#!/usr/bin/env bash
# SmolLM2-135M at 4 bits, group 64: quantise on 2 ranks, verify, and hold the result against the
# bound that the project promises. Minutes; part of tests/all.
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

begin=$SECONDS
"${MPIRUN[@]}" -n 2 "$build_folder/mpiquant" quantize "$model" --calib "$work/calib.h5" \
    --output "$work/w4" --bits 4 --group-size 64 --threads 1
echo "quantised in $((SECONDS - begin)) s"
"$build_folder/mpiquant" verify "$work/w4" --source "$model"
"${MPIRUN[@]}" -n 2 "$build_folder/mpiquant" eval "$work/w4" --reference "$model" \
    --tokens "$work/heldout.h5" --json >"$work/eval.json"
cat "$work/eval.json"
$python - "$work/eval.json" <<'END'
import json, sys
kl = json.load(open(sys.argv[1]))["kl"]
sys.exit(0 if kl <= 0.16 else f"KL {kl} is above the bound of 0.16")
END
