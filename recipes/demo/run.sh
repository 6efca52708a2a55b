#!/usr/bin/env bash
# The whole job on a simulated screen, one command a step. Usage: run.sh [DIRECTORY]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-demo}
mkdir -p "$out"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

step bionemo-scale simulate "$out/screen.h5ad" --cells 20000 --genes 1000 --contexts 4 --perturbations 12
step bionemo-scale prepare "$out/screen.h5ad" --store "$out/store" --overwrite --all-genes \
    --perturbation-key perturbation --control control --context-key context --batch-key batch
step bionemo-scale pretrain --store "$out/store" --split "$here/split.toml" --recipe scale_tiny --out "$out/run"
step bionemo-scale predict --checkpoint "$out/run" --controls "$out/screen.h5ad" --like "$out/screen.h5ad" \
    --out "$out/predicted.h5ad" --overwrite
step bionemo-scale evaluate --predicted "$out/predicted.h5ad" --observed "$out/screen.h5ad" \
    --split "$here/split.toml" --out "$out/report"
