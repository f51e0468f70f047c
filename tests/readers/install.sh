#!/usr/bin/env bash
# Makes a Python environment with readers that other people wrote, and prints its Python.
#   install.sh python      GPTQModel, transformers, compressed-tensors: minutes and 6 GB the first time
#   install.sh llama       llama.cpp: half a minute
# Nothing is done when it is there. MQ_READERS_VENV and MQ_LLAMA_VENV name environments to use as they
# are. Exit code 77 when there is no room.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/common.sh"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mpiquant
case ${1:-} in
python) given=${MQ_READERS_VENV:-} venv=$cache/readers needed_gb=12 ;;
llama) given=${MQ_LLAMA_VENV:-} venv=$cache/llama-cpp needed_gb=1 ;;
*) die 'which: python or llama?' ;;
esac
requirements=tests/readers/requirements-$1.txt

# What is installed, whatever its comments say.
is_there() {
    [ -f "$venv/requirements.txt" ] &&
        cmp -s <(grep -v '^#' "$requirements") <(grep -v '^#' "$venv/requirements.txt")
}

if [ -n "$given" ]; then
    venv=$given
elif ! is_there; then
    mkdir -p "$venv"
    free_gb=$(($(df --output=avail -k "$venv" | tail -n 1) / 1000000))
    if [ "$free_gb" -lt "$needed_gb" ]; then
        say "$free_gb GB are free in $venv, $needed_gb are needed"
        exit 77
    fi
    rm -f "$venv/requirements.txt"
    quietly "out/log/readers-$1-venv.log" .venv/bin/python -m venv --clear "$venv"
    quietly "out/log/readers-$1-pip.log" "$venv/bin/python" -m pip install --quiet --no-input \
        --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/requirements.txt"
fi
[ -x "$venv/bin/python" ] || die "$venv: no bin/python"
echo "$venv/bin/python"
