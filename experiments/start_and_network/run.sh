#!/usr/bin/env bash
# The linear start alone, the network alone, and both, on one screen, beside the baselines.
# Usage: run.sh OUT [SCREEN.h5ad SPLIT.toml PERTURBATION_KEY CONTROL CONTEXT_KEY [STATE_PREDICTED.h5ad]]
# Without a screen it is that of `make demo`. SEEDS=3 trains as many seeds of each; OVERRIDES are settings of all trainings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: run.sh OUT [SCREEN.h5ad SPLIT.toml PERTURBATION_KEY CONTROL CONTEXT_KEY [STATE_PREDICTED.h5ad]]}
seeds=${SEEDS:-1}
read -ra overrides <<<"${OVERRIDES:-}"
mkdir -p "$out"
if [[ $# -eq 1 ]]; then
    [[ -e $out/screen.h5ad ]] || bionemo-scale simulate "$out/screen.h5ad" --cells 20000 --genes 1000 --contexts 4 --perturbations 12
    set -- "$out" "$out/screen.h5ad" "$here/../../recipes/demo/split.toml" perturbation control context
fi
[[ $# -ge 6 ]] || { echo "error: a screen needs its split, two columns and the control label." >&2; exit 2; }
screen=$2 split=$3 state=${7:-}

[[ -e $out/store ]] || bionemo-scale prepare "$screen" --store "$out/store" --all-genes --perturbation-key "$4" --control "$5" --context-key "$6"

declare -A share=([linear start alone]="--network-share 0" [network alone]="--network-share 1" [both]="")
predictions=()
for ((seed = 0; seed < seeds; seed++)); do
    run=$out/run-$seed
    bionemo-scale pretrain --store "$out/store" --split "$split" --out "$run" \
        "${overrides[@]}" training.seed="$seed" training.control_rotation="$((seed % 3))"
    for arm in "linear start alone" "network alone" both; do
        read -ra asked <<<"${share[$arm]}"
        file=$run/${arm// /_}.h5ad
        [[ -e $file ]] || bionemo-scale predict --checkpoint "$run" --controls "$screen" --like "$screen" \
            --seed "$seed" "${asked[@]}" --out "$file"
        predictions+=(--predicted "$arm=$file")
    done
done
[[ -z $state ]] || predictions+=(--predicted "STATE=$state")
bionemo-scale evaluate "${predictions[@]}" --observed "$screen" --split "$split" --out "$out/report" \
    --perturbation-key "$4" --control "$5" --context-key "$6" --target-sum 10000
python "$here/table.py" "$out/report/metrics.json" "$out/results.json" | tee "$out/table.md"
