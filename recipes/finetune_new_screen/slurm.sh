#!/usr/bin/env bash
# Queue a finetuning, from the folder with the new screen's store and split.toml:
#   FROM=/lustre/me/pretrained ACCOUNT=... IMAGE=... recipes/finetune_new_screen/slurm.sh [key=value ...]
# docs/reference/slurm.md lists what else can be set; DRYRUN=1 prints the job.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [[ -z ${FROM:-} ]]; then
    echo "error: FROM is not set: give the run or checkpoint to start from." >&2
    exit 2
fi
export NODES=${NODES:-1} GPUS=${GPUS:-1} TIME=${TIME:-02:00:00} STORE=${STORE:-$PWD/store} OUT=${OUT:-$PWD/finetuned}
exec "$here/../slurm/submit.sh" scale-finetune bionemo-scale finetune --from "$FROM" --data '{store}' \
    --split "${SPLIT:-$PWD/split.toml}" --out "$OUT" compute.devices="$GPUS" compute.nodes="$NODES" "$@"
