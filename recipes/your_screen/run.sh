#!/usr/bin/env bash
# From your own screen to a report: change the settings below, then start run.sh in the folder that holds the file.
# Started again it goes on where it was interrupted.
set -euo pipefail

# An h5ad file with raw counts in X, and what the columns of its obs mean.
: "${SCREEN:=screen.h5ad}"
: "${PERTURBATION_KEY:=perturbation}" # names the perturbation of each cell
: "${CONTROL:=control}"               # its label for control cells
: "${CONTEXT_KEY:=context}"           # cell line, donor or cell type; two columns as donor+cell_type
# What the model must not see; split.toml beside this file shows how.
: "${SPLIT:=split.toml}"
: "${RECIPE:=scale_tiny}"
: "${OUT:=out}"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

mkdir -p "$OUT"
[[ -d $OUT/store ]] || step bionemo-scale prepare "$SCREEN" --store "$OUT/store" \
    --perturbation-key "$PERTURBATION_KEY" --control "$CONTROL" --context-key "$CONTEXT_KEY"
# Settings given to run.sh are those of training: run.sh training.max_steps=2000
step bionemo-scale pretrain --store "$OUT/store" --split "$SPLIT" --recipe "$RECIPE" --out "$OUT/run" "$@"
step bionemo-scale predict --checkpoint "$OUT/run" --controls "$SCREEN" --like "$SCREEN" --out "$OUT/predicted.h5ad" --overwrite
step bionemo-scale evaluate --predicted "$OUT/predicted.h5ad" --observed "$SCREEN" --split "$SPLIT" --out "$OUT/report"
