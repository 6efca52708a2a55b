"""Name the sizes at which both models are measured, and the settings each is told so that they match."""

from dataclasses import dataclass
from typing import Any

_MODULES = 8
_LEARNING_RATE, _CLIP = 1e-4, 10.0  # STATE's
CONTROL = "control"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A `Size` has what SCALE and STATE have in common: the transformer over the cells of a set, and its sets."""

    name: str
    preset: str
    """STATE's own configuration that it starts from."""
    hidden: int
    layers: int
    heads: int
    ffn: int
    set_size: int
    """Cells of a set, S."""
    sets_per_batch: int = 16
    """Sets of a batch, B."""
    steps: tuple[int, int]
    """Steps of one measurement on a CPU and on a GPU. STATE's workers keep 48 batches: a window much shorter than that
    can live on batches made before it."""

    def blocks(self) -> dict[str, Any]:
        """Return the sizes of SCALE's transformer blocks."""
        return {
            "hidden_size": self.hidden,
            "num_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_query_groups": self.heads,
            "ffn_hidden_size": self.ffn,
        }

    def scale_model(self, **more: Any) -> dict[str, Any]:
        """Return SCALE's model: at these sizes what its named sizes are, with linear start and evidence.

        The gene modules of a cell are together as wide as the layer that STATE reads a cell with.
        """
        width = max(1, round(self.hidden / _MODULES / self.heads)) * self.heads
        return {**self.blocks(), "gene_modules": _MODULES, "gene_module_size": width, "evidence": "on", **more}

    def scale_training(self) -> dict[str, Any]:
        """Return SCALE's training settings: STATE's optimizer and clipping."""
        never = 10**9
        return {
            "max_steps": never,
            "sets_per_batch": self.sets_per_batch,
            "cells_per_set": self.set_size,
            "learning_rate": _LEARNING_RATE,
            "warmup_steps": 1,
            "weight_decay": 0.0,
            "clip_gradient": _CLIP,
            "validate_every": never,
            "checkpoint_every": never,
            "log_every": 50,
        }

    def state_config(self, *, data: str, workers: int, consecutive: bool) -> list[str]:
        """Return what STATE's configuration is told beside its defaults."""
        never = 10**9
        backbone = {
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.hidden // self.heads,
        }
        given = {
            "data.kwargs.toml_config_path": data,
            "data.kwargs.embed_key": "X_hvg",
            "data.kwargs.output_space": "gene",
            "data.kwargs.num_workers": workers,
            "data.kwargs.use_consecutive_loading": str(consecutive).lower(),
            "data.kwargs.pert_col": "perturbation",
            "data.kwargs.cell_type_key": "context",
            "data.kwargs.batch_col": "context",
            "data.kwargs.control_pert": CONTROL,
            "model": self.preset,
            "model.kwargs.cell_set_len": self.set_size,
            "model.kwargs.hidden_dim": self.hidden,
            **{f"model.kwargs.transformer_backbone_kwargs.{name}": value for name, value in backbone.items()},
            "training.batch_size": self.sets_per_batch,
            "training.max_steps": never,
            "training.val_freq": never,
            "training.ckpt_every_n_steps": never,
            "use_wandb": "false",
            "overwrite": "true",
        }
        return [f"{name}={value}" for name, value in given.items()]


SIZES = {
    size.name: size
    for size in (
        Size(name="tiny", preset="state_sm", hidden=128, layers=2, heads=4, ffn=384, set_size=128, steps=(60, 100)),
        Size(name="state_sm", preset="state_sm", hidden=672, layers=4, heads=8, ffn=2688, set_size=128, steps=(2, 100)),
        Size(name="state", preset="state", hidden=768, layers=8, heads=12, ffn=3072, set_size=512, steps=(1, 50)),
        Size(
            name="tahoe",
            preset="tahoe_llama_212693232",
            hidden=1488,
            layers=6,
            heads=12,
            ffn=5952,
            set_size=512,
            steps=(1, 50),
        ),
    )
}
"""`tiny` is for a CPU; the others are configurations that STATE comes with."""
