#!/usr/bin/env bash
# Queue the benchmark against STATE on one GPU of a node of one's own. It makes its own data; STATE's environment has to be
# there already, since nodes seldom reach the internet.
#   STATE_VENV=/lustre/me/state ACCOUNT=... IMAGE=... recipes/throughput_vs_state/slurm.sh [option ...]
# docs/reference/slurm.md lists what else can be set; DRYRUN=1 prints the job.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# One process: it starts what it measures itself.
export NODES=1 GPUS=1 TIME=${TIME:-02:00:00} OUT=${OUT:-$PWD/throughput} STORE=
exec "$here/../slurm/submit.sh" scale-throughput bionemo-bench throughput --device cuda --out "$OUT" "$@"
