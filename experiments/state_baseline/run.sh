#!/usr/bin/env bash
# Train STATE on a screen of counts and predict the conditions that the split holds out.
# ROTATION=1 (0, 1 or 2) moves the roles of the control cells on, as training.control_rotation does. GENES names a
# file of the gene names to keep; all genes are taken without it.
set -euo pipefail
if [ $# -lt 6 ]; then
    echo "usage: $0 SCREEN.h5ad SPLIT.toml PERTURBATION_KEY CONTROL CONTEXT_KEY OUT [key=value of STATE ...]" >&2
    exit 2
fi
here="$(cd "$(dirname "$0")" && pwd)"
screen="$(realpath "$1")" split="$(realpath "$2")" key="$3" control="$4" context="$5" out="$6"
shift 6
venv="${STATE_VENV:-$HOME/.cache/bionemo-scale/state-0.11.1}"
if ! [ -e "$venv/.installed" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q torch==2.13.0
    "$venv/bin/pip" install -q arc-state==0.11.1 cell-load==0.10.4
    touch "$venv/.installed"
fi
mkdir -p "$out"
out="$(realpath "$out")"
columns=(--perturbation-key "$key" --context-key "$context" --control "$control" --rotation "${ROTATION:-0}" ${GENES:+--genes "$GENES"})
export PYTHONPATH="$here/../../sub-packages/bionemo-screens/src${PYTHONPATH:+:$PYTHONPATH}"
"$venv/bin/python" "$here/convert.py" training --screen "$screen" --split "$split" "${columns[@]}" --out "$out/data"

# STATE's own small model made smaller still for a CPU; its learning rate is meant for ten times the steps.
"$venv/bin/state" tx train \
    data.kwargs.toml_config_path="$out/data/data.toml" data.kwargs.embed_key=X_hvg data.kwargs.output_space=gene \
    data.kwargs.num_workers=0 data.kwargs.pert_col=gene data.kwargs.cell_type_key=cell_type data.kwargs.batch_col=gem_group \
    data.kwargs.control_pert="$control" data.kwargs.use_consecutive_loading=true \
    model=state_sm model.kwargs.cell_set_len=32 model.kwargs.hidden_dim=128 model.kwargs.transformer_backbone_kwargs.intermediate_size=384 \
    model.kwargs.transformer_backbone_kwargs.num_hidden_layers=2 model.kwargs.transformer_backbone_kwargs.num_attention_heads=4 \
    model.kwargs.transformer_backbone_kwargs.num_key_value_heads=4 model.kwargs.transformer_backbone_kwargs.head_dim=32 \
    training.batch_size=16 training.lr=1e-3 training.max_steps=800 training.val_freq=400 training.ckpt_every_n_steps=400 \
    use_wandb=false output_dir="$out" name=state overwrite=true "$@"
"$venv/bin/state" tx predict --output-dir "$out/state" --checkpoint last.ckpt --predict-only --profile anndata
predicted="$(find "$out/state" -name 'adata_pred.h5ad' | head -1)"
"$venv/bin/python" "$here/convert.py" prediction --predicted "$predicted" --screen "$screen" "${columns[@]}" \
    --out "$out/predicted.h5ad"
echo "wrote $out/predicted.h5ad"
