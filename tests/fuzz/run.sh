#!/usr/bin/env bash
# Runs fuzz targets for a while, as many at a time as there are cores, and prints how far each came:
# executions, edges and features of the code reached, inputs kept. A crash, leak, hang, or an allocation
# far larger than the input fails, with the input in FOLDER.
#   run.sh BUILD SECONDS [FOLDER [TARGET...]]     BUILD: configured with -DMQ_FUZZ=ON (tests/stages.sh)
# FOLDER (a new one, removed afterwards, when not given) keeps what was found for the next time.
set -euo pipefail
build=$(realpath "$1") seconds=$2
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"
if [ $# -gt 2 ]; then
    mkdir -p "$3"
    folder=$(realpath "$3")
    targets=("${@:4}")
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    targets=()
fi
[ ${#targets[@]} -gt 0 ] || targets=(header index config packed gguf pieces tokenizer calib)
export build seconds folder
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
export OMPI_MCA_btl=^tcp OMPI_MCA_btl_base_warn_component_unused=0

# Inputs have up to 64 KB; one allocation may have 64 times that.
fuzz() {
    local target=$1 log=$folder/$1.log runs reached
    cd "$folder"
    if ! "$build/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -malloc_limit_mb=4 -max_len=65536 -print_final_stats=1 -artifact_prefix="$folder/$target-" \
        "$folder/$target" >"$log" 2>&1; then
        tail -n 60 "$log"
        return 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    reached=$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)
    echo "fuzz_$target: $runs executions, $reached"
}
export -f fuzz

.venv/bin/python tests/fuzz/seeds.py "$folder"
printf '%s\n' "${targets[@]}" | xargs -P "$(cores)" -I '{}' bash -c 'fuzz {}' || {
    trap - EXIT
    die "a target failed: its log and input are in $folder"
}
