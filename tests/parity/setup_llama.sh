#!/usr/bin/env bash
# Makes the Python environment with llama.cpp (tests/parity/requirements-llama.txt) and prints its
# Python. Half a minute the first time, nothing when it is there. MQ_LLAMA_VENV names an environment to
# use as it is.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"

requirements=tests/parity/requirements-llama.txt
venv=${MQ_LLAMA_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/mpiquant/llama-cpp}

if [ -z "${MQ_LLAMA_VENV:-}" ] && ! cmp -s "$requirements" "$venv/requirements.txt"; then
    mkdir -p "$venv"
    rm -f "$venv/requirements.txt"
    quietly out/log/llama-venv.log .venv/bin/python -m venv --clear "$venv"
    quietly out/log/llama-pip.log "$venv/bin/python" -m pip install --quiet --no-input \
        --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/requirements.txt"
fi
[ -x "$venv/bin/python" ] || die "$venv: no bin/python"
echo "$venv/bin/python"
