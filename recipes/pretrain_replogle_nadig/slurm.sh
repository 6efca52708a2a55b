#!/usr/bin/env bash
# Queue the pretraining of README.md, from the folder with store and split.toml:
#   ACCOUNT=... IMAGE=... recipes/pretrain_replogle_nadig/slurm.sh [key=value ...]
# docs/reference/slurm.md lists what else can be set; DRYRUN=1 prints the job.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export NODES=${NODES:-1} GPUS=${GPUS:-1} TIME=${TIME:-02:00:00} STORE=${STORE:-$PWD/store} OUT=${OUT:-$PWD/run}
mapfile -t overrides < <(grep -v '^#' "$here/overrides.txt")
exec "$here/../slurm/submit.sh" scale-replogle-nadig bionemo-scale pretrain --store '{store}' \
    --split "${SPLIT:-$PWD/split.toml}" --recipe scale_small --out "$OUT" "${overrides[@]}" \
    compute.devices="$GPUS" compute.nodes="$NODES" "$@"
