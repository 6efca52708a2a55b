#!/usr/bin/env bash
# Queue the pretraining of README.md, from the folder with store and split.toml:
#   ACCOUNT=... IMAGE=... recipes/pretrain_parse10m_pbmc/slurm.sh [key=value ...]
# docs/reference/slurm.md lists what else can be set; DRYRUN=1 prints the job.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export NODES=${NODES:-1} GPUS=${GPUS:-8} TIME=${TIME:-06:00:00} STORE=${STORE:-$PWD/store} OUT=${OUT:-$PWD/run}
mapfile -t overrides < <(grep -v '^#' "$here/overrides.txt")
exec "$here/../slurm/submit.sh" scale-parse10m-pbmc bionemo-scale pretrain --store '{store}' \
    --split "${SPLIT:-$PWD/split.toml}" --recipe scale_184m --out "$OUT" "${overrides[@]}" \
    compute.devices="$GPUS" compute.nodes="$NODES" "$@"
