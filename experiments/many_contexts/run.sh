#!/usr/bin/env bash
# Twenty contexts, fifty perturbations with effects that are partly a context's own. Usage: run.sh [DIRECTORY]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-many_contexts}
mkdir -p "$out"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

step bionemo-scale simulate "$out/screen.h5ad" --cells 100000 --genes 500 --contexts 20 --perturbations 50 --batches 1 --seed 11
step bionemo-scale prepare "$out/screen.h5ad" --store "$out/store" --overwrite --all-genes \
    --perturbation-key perturbation --control control --context-key context
step python "$here/splits.py" "$out/screen.h5ad" --out "$out"
step bionemo-scale pretrain --store "$out/store" --split "$out/unseen.toml" --recipe scale_tiny --out "$out/unseen" \
    --embeddings "$out/vectors.npz" model.perturbation_tokens=embedding
step bionemo-scale predict --checkpoint "$out/unseen" --controls "$out/screen.h5ad" --like "$out/screen.h5ad" \
    --out "$out/unseen.h5ad" --overwrite
step bionemo-scale evaluate --predicted "$out/unseen.h5ad" --observed "$out/screen.h5ad" --split "$out/unseen.toml" \
    --out "$out/unseen-report"
