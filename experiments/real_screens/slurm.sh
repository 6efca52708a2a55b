#!/usr/bin/env bash
# Queue the measurement of README.md on one GPU of a node of one's own, from the folder for the results:
#   SCALE_SCREENS=/lustre/me/screens ACCOUNT=... IMAGE=... experiments/real_screens/slurm.sh [option ...]
# docs/reference/slurm.md lists what else can be set; DRYRUN=1 prints the job. What is there is not predicted again, so the job goes
# on when it is queued again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if [[ ! -d ${SCALE_SCREENS:-} ]]; then
    echo "error: SCALE_SCREENS=${SCALE_SCREENS:-} is no folder: name the one that holds the screens." >&2
    exit 2
fi
# One process: it starts what it measures itself.
export NODES=1 GPUS=1 TIME=${TIME:-04:00:00} OUT=${OUT:-$PWD/real_screens} STORE=
export MOUNTS=${MOUNTS:-$PWD,$root,$SCALE_SCREENS}
exec "$root/recipes/slurm/submit.sh" scale-real-screens env -C "$root" "SCALE_SCREENS=$SCALE_SCREENS" \
    python -m experiments.real_screens.run --out "$OUT" "$@"
