#!/usr/bin/env bash
# Installs into a temporary prefix, then builds and runs a small program against what was installed,
# through pkg-config and through find_package; checks that data and documents are there.
#   test_install.sh SOURCE BUILD
set -euo pipefail
source_folder=$1 build_folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

fail() {
    echo "test_install: $*" >&2
    exit 1
}

cmake --install "$build_folder" --prefix "$prefix" >"$work/install.log"

for file in bin/mpiquant bin/mpiquant-calib bin/mpiquant-calib-multimodal include/mpiquant/status.h \
    share/mpiquant/arch/llama.json share/mpiquant/jobs/quantize.sbatch \
    share/doc/mpiquant/LICENSE share/doc/mpiquant/user-guide.md; do
    [ -s "$prefix/$file" ] || fail "$file was not installed"
done
for program in mpiquant mpiquant-calib mpiquant-calib-multimodal; do
    [ -x "$prefix/bin/$program" ] || fail "bin/$program cannot be executed"
done
if grep -rIl -e "$source_folder" -e "$build_folder" "$prefix/lib" "$prefix/include"; then
    fail "the files above name the folders they were built in"
fi

PKG_CONFIG_PATH=$(find "$prefix" -name mpiquant.pc -printf '%h')
export PKG_CONFIG_PATH
flags=$(pkg-config --cflags --libs mpiquant)
expected="$(pkg-config --modversion mpiquant), usage: no model folder given"

check() {
    local said
    said=$("$1" 2>/dev/null)
    [ "$said" = "$expected" ] || fail "$1 said '$said', expected '$expected'"
}

# shellcheck disable=SC2086  # flags are words
mpicc "$source_folder/tests/e2e/consumer/consumer.c" -o "$work/consumer-pc" $flags
check "$work/consumer-pc"

cmake -S "$source_folder/tests/e2e/consumer" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" \
    >"$work/cmake.log"
cmake --build "$work/build" >>"$work/cmake.log" || fail "$(cat "$work/cmake.log")"
check "$work/build/consumer"
