#!/usr/bin/env bash
# Pretrain on one simulated screen, finetune on another, beside training from scratch. Usage: run.sh [DIRECTORY]
# PRETRAIN_STEPS, STEPS: their lengths.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-finetune_new_screen}
pretrain_steps=${PRETRAIN_STEPS:-800}
steps=${STEPS:-100}
mkdir -p "$out"
cd "$out"

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
numbered() { seq -f "$1" -s, "$2" "$3"; }
keys=(--perturbation-key perturbation --control control --context-key context --batch-key batch)

# One simulation, so that the two screens share their biology: contexts 5 and 6 and perturbations 13 to 16 are new.
step bionemo-scale simulate both.h5ad --cells 30000 --genes 1000 --contexts 6 --perturbations 16 --batches 1
step python "$here/cut.py" both.h5ad old.h5ad --keep "context=$(numbered context_%g 1 4)" \
    --drop "perturbation=$(numbered perturbation_%02g 13 16)"
step python "$here/cut.py" both.h5ad new.h5ad --keep context=context_5,context_6

step bionemo-scale prepare old.h5ad --store old --all-genes "${keys[@]}"
step bionemo-scale pretrain --store old --split "$here/old.toml" --recipe scale_tiny --out pretrained \
    model.start=none model.evidence=off "training.max_steps=$pretrain_steps"

step bionemo-scale prepare new.h5ad --store new --genes-of pretrained "${keys[@]}"
for recipe in full low_rank; do
    step bionemo-scale finetune --from pretrained --data new --split "$here/split.toml" --recipe "$recipe" --out "$recipe" \
        "training.max_steps=$steps"
done
step bionemo-scale pretrain --store new --split "$here/split.toml" --recipe scale_tiny --out scratch \
    model.start=none model.evidence=off "training.max_steps=$steps"

arms=()
for run in full low_rank scratch; do
    step bionemo-scale predict --checkpoint "$run" --controls new.h5ad --like new.h5ad --out "$run.h5ad" --overwrite
    arms+=(--predicted "$run=$run.h5ad")
done
step bionemo-scale evaluate "${arms[@]}" --observed new.h5ad --split "$here/split.toml" --out report
