#!/usr/bin/env bash
# Queue the ablations of README.md on one GPU of a node of one's own, from the folder for the results:
#   SCALE_SCREENS=/lustre/me/screens ACCOUNT=... IMAGE=... experiments/ablations/slurm.sh [option ...]
# docs/reference/slurm.md lists what else can be set; DRYRUN=1 prints the job. A finished row is not repeated, so the job goes on
# when it is queued again. Without SCALE_SCREENS: slurm.sh --screens simulated
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
screens=${SCALE_SCREENS:-}
# One process: it starts what it measures itself.
export NODES=1 GPUS=1 TIME=${TIME:-04:00:00} OUT=${OUT:-$PWD/ablations} STORE=
export MOUNTS=${MOUNTS:-$PWD,$root${screens:+,$screens}}
exec "$root/recipes/slurm/submit.sh" scale-ablations env -C "$root" ${screens:+"SCALE_SCREENS=$screens"} \
    python -m experiments.ablations.run --out "$OUT" "$@"
