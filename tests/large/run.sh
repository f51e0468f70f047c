#!/usr/bin/env bash
# The tensor of 256000 x 12288, written by so many ranks, read back by ours and by the reference
# reader; for one type the file must be the same for any number of ranks.
#   run.sh BUILD TYPE RANKS...       TYPE: BF16 (6.3 GB of disk) or F32 (12.6 GB); in TMPDIR
set -euo pipefail
program=$(realpath "$1")/tests/large_tensor kind=$2
shift 2
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"
find_mpirun
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

first=
for ranks in "$@"; do
    begin=$SECONDS
    "${MPIRUN[@]}" -n "$ranks" "$program" "$kind" "$work" | tee "$work/log"
    .venv/bin/python tests/large/large_tensor.py "$kind" "$work"
    hash=$(grep -o 'xxh3:[0-9a-f]*' "$work/log")
    echo "$kind, $ranks ranks: $hash, $((SECONDS - begin)) s"
    [ "$hash" = "${first:=$hash}" ] || die "$kind: $ranks ranks wrote other bytes than $1"
    rm "$work/model.safetensors"
done
