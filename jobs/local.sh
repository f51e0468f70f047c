#!/usr/bin/env bash
# Quantises a model on one workstation or one node, without a batch system.
#
#   jobs/local.sh MODEL CALIB OUTPUT [OPTION...]      options of `mpiquant quantize`
#
# RANKS sets the number of ranks (default 2), THREADS the threads of each (default: the cores
# shared out), MPIQUANT the program.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
model=$1 calib=$2 output=$3
shift 3
ranks=${RANKS:-2}
cores=$(nproc)
threads=${THREADS:-$((cores / ranks > 0 ? cores / ranks : 1))}

# --bind-to none: mpirun would pin each of one or two ranks to a single core, threads and all.
launch=(mpirun -n "$ranks" --bind-to none)
# Inside a Slurm job mpirun counts the job's tasks, not its cores, as places for ranks.
[ "$ranks" -le "$cores" ] && [ -z "${SLURM_JOB_ID:-}" ] || launch+=(--oversubscribe)
[ "$(id -u)" != 0 ] || launch+=(--allow-run-as-root)

# Threads are mpiquant's own (--threads); the libraries below it must not start more.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

exec "${launch[@]}" "${MPIQUANT:-mpiquant}" quantize "$model" --calib "$calib" \
    --output "$output" --threads "$threads" "$@"
