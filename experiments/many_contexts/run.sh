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
for split in fewshot unseen; do
    more=()
    [ "$split" = fewshot ] || more=(--embeddings "$out/vectors.npz" model.perturbation_tokens=embedding)
    step bionemo-scale pretrain --store "$out/store" --split "$out/$split.toml" --recipe scale_tiny --out "$out/$split" "${more[@]}"
    step bionemo-scale predict --checkpoint "$out/$split" --controls "$out/screen.h5ad" --like "$out/screen.h5ad" \
        --out "$out/$split.h5ad" --overwrite
    step bionemo-scale evaluate --predicted "$out/$split.h5ad" --observed "$out/screen.h5ad" --split "$out/$split.toml" \
        --out "$out/$split-report"
done
