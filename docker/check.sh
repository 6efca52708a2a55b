#!/usr/bin/env bash
# What an image has to be able to do before it is done: import every module that it has of this project, and train for
# two steps. A dependency that is missing or does not fit shows here, not in a job. Needs no GPU, and hides those there are.
set -euo pipefail
export CUDA_VISIBLE_DEVICES=
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python - <<'END'
import importlib
import pkgutil

import bionemo.cellsets
import bionemo.perteval
import bionemo.scale
import bionemo.screens

for package in (bionemo.screens, bionemo.cellsets, bionemo.scale, bionemo.perteval):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
END

printf '[training]\nscreen = "train"\n[fewshot."screen.context_2"]\nval = ["perturbation_1"]\ntest = ["perturbation_2"]\n' >split.toml
bionemo-scale simulate screen.h5ad --cells 1600 --genes 120 --contexts 2 --perturbations 6 --batches 1
bionemo-scale prepare screen.h5ad --store store --perturbation-key perturbation --control control \
    --context-key context --batch-key batch
bionemo-scale pretrain --store store --split split.toml --recipe scale_tiny --out run \
    training.max_steps=2 training.warmup_steps=1 training.sets_per_batch=4 training.cells_per_set=16
nemo scale pretrain --factory scale_tiny store=store split=split.toml out=again training.max_steps=2 training.warmup_steps=1 \
    --dryrun >/dev/null
perteval --help >/dev/null
