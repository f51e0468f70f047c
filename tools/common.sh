# shellcheck shell=bash
# Sourced by the scripts in tools/ and tests/. Leaves the shell in the root of the checkout.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# Runs a command with its output in a file; shows the file's end when the command fails.
quietly() {
    local log=$1
    shift
    mkdir -p "$(dirname "$log")"
    "$@" >"$log" 2>&1 </dev/null && return 0
    tail -n 60 "$log" >&2
    say "failed: $* (all of its output: $log)"
    return 1
}

cores() { nproc; }

# Sets MPIRUN and Open MPI's environment for one machine, also a small one or a container.
# --bind-to none: mpirun pins each of one or two ranks to one core, threads and all.
find_mpirun() {
    command -v mpirun >/dev/null || die "mpirun is not in PATH: run tools/setup, or load an MPI module"
    MPIRUN=(mpirun --oversubscribe --bind-to none)
    [ "$(id -u)" != 0 ] || MPIRUN+=(--allow-run-as-root)
    # Shared memory only, without the copies between processes that need a right which containers
    # often lack, and without a word about network hardware that is not there.
    export OMPI_MCA_btl=^tcp OMPI_MCA_btl_vader_single_copy_mechanism=none
    export OMPI_MCA_btl_base_warn_component_unused=0
}
