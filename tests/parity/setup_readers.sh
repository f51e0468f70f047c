#!/usr/bin/env bash
# Makes the Python environment with the GPTQ readers (tests/parity/requirements.txt) and prints its
# Python. Minutes and 6 GB the first time, nothing when it is there. MQ_READERS_VENV names an
# environment to use as it is. Exit code 77 when there is no room for it.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"

needed_gb=12
requirements=tests/parity/requirements.txt

if [ -n "${MQ_READERS_VENV:-}" ]; then
    [ -x "$MQ_READERS_VENV/bin/python" ] || die "MQ_READERS_VENV=$MQ_READERS_VENV: no bin/python"
    echo "$MQ_READERS_VENV/bin/python"
    exit 0
fi

venv=${XDG_CACHE_HOME:-$HOME/.cache}/mpiquant/readers
if ! cmp -s "$requirements" "$venv/requirements.txt"; then
    mkdir -p "$venv"
    free_gb=$(($(df --output=avail -k "$venv" | tail -n 1) / 1000000))
    if [ "$free_gb" -lt "$needed_gb" ]; then
        say "$free_gb GB are free in $venv, $needed_gb are needed"
        exit 77
    fi
    rm -f "$venv/requirements.txt"
    quietly out/log/readers-venv.log .venv/bin/python -m venv --clear "$venv"
    quietly out/log/readers-pip.log "$venv/bin/python" -m pip install --quiet --no-input \
        --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/requirements.txt"
fi
echo "$venv/bin/python"
