#!/usr/bin/env bash
# Installs the readers that other people wrote, and holds outputs of the demo model and of small random
# models against them. Exit code 1 when one differs.
#   run.sh [PROGRAM [WHAT...]]        default: build/mpiquant, and everything
# WHAT is one of the sets below, or BITS:GROUP[:OPTION,...] as packed.sh takes it. EXL2 is not among
# them: its reader needs a GPU, and tests/parity/exl2_reference.py takes its place in tests/e2e.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"
program=$(realpath "${1:-build/mpiquant}")
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- gptq zero-points lm-head gptq_v2 compressed-tensors families experts multimodal gguf

schemes=() families='' experts='' gguf='' multimodal=''
for what in "$@"; do
    case $what in
    gptq) schemes+=(2:32 3:128 4:128 8:-1) ;;
    zero-points) schemes+=({2:32,3:64,4:128,8:-1}:zero-points) ;;
    lm-head) schemes+=({2:32,3:64,4:128,8:-1}:lm-head) ;;
    gptq_v2) schemes+=({2:32,4:128}:gptq_v2) ;;
    compressed-tensors)
        schemes+=({2:32,4:64,4:128,8:-1}:compressed-tensors)
        schemes+=({2:32,4:128,8:-1}:compressed-tensors{',zero-points',',lm-head'})
        ;;
    families) families=yes ;;
    experts) experts=yes ;;
    multimodal) multimodal=yes ;;
    gguf) gguf=yes ;;
    *:*) schemes+=("$what") ;;
    *) die "$what: none of gptq zero-points lm-head gptq_v2 compressed-tensors families experts multimodal gguf \
BITS:GROUP" ;;
    esac
done

python=$(bash tests/readers/install.sh python)
if [ ${#schemes[@]} -gt 0 ]; then
    bash tests/readers/packed.sh "$python" "$program" "${schemes[@]}"
fi
if [ -n "$families" ]; then HF_HUB_OFFLINE=1 "$python" tests/readers/families.py "$program"; fi
if [ -n "$experts" ]; then bash tests/readers/experts.sh "$python" "$program"; fi
if [ -n "$multimodal" ]; then
    "$python" tests/unit/test_calib_multimodal.py
    MPIQUANT=$program "$python" tests/e2e/test_multimodal.py -k transformers -k companion
fi
if [ -n "$gguf" ]; then
    llama=$(bash tests/readers/install.sh llama)
    bash tests/readers/llama_cpp.sh "$python" "$llama" "$program"
fi
