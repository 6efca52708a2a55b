#!/usr/bin/env bash
# From training lines to a submission for an unseen line, on simulated data. Usage: run.sh [DIRECTORY]
# CELLS, GENES, TARGETS, STEPS: the sizes; the challenge's own are 18533 genes and 300 targets.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-challenge_vcc2026}
mkdir -p "$out"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

step bionemo-scale simulate "$out/screen.h5ad" --cells "${CELLS:-8000}" --genes "${GENES:-600}" --contexts 5 \
    --perturbations "${TARGETS:-12}"
step python "$here/parts.py" "$out/screen.h5ad" context_5 "$out"
step bionemo-scale prepare "$out/screen.h5ad" --store "$out/store" --overwrite --all-genes \
    --perturbation-key perturbation --control control --context-key context --batch-key batch
step bionemo-scale pretrain --store "$out/store" --split "$here/split.toml" --recipe scale_tiny --out "$out/run" \
    "training.max_steps=${STEPS:-200}"

# The submission starts from all control cells of the line: there is nothing here to score against.
step bionemo-scale predict --checkpoint "$out/run" --controls "$out/controls.h5ad" --control-roles shared \
    --format vcc2026 --targets "$out/targets.csv" --panel "$out/genes.txt" --out "$out/submission.h5ad" --overwrite

# What the challenge would say of it, had it these cells; and the same model beside baselines, in all metrics.
step bionemo-scale evaluate --predicted "$out/submission.h5ad" --observed "$out/truth.h5ad" --protocol vcc2026 \
    --perturbation-key perturbation --control control --context-key context --out "$out/challenge"
step bionemo-scale predict --checkpoint "$out/run" --controls "$out/screen.h5ad" --like "$out/screen.h5ad" \
    --out "$out/predicted.h5ad" --overwrite
step bionemo-scale evaluate --predicted "$out/predicted.h5ad" --observed "$out/screen.h5ad" \
    --split "$here/split.toml" --engine vcc2026 --arms main --out "$out/report"
