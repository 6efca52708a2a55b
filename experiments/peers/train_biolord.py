"""biolord 0.0.3 (BSD 3-clause): known attributes, here perturbation and context, apart from a code that each cell has.

A cell is predicted from a control cell of the context, whose code is kept and whose perturbation is changed. Predicted
expression is the mean that the decoder gives, as biolord's own `predict` returns it. The decoder is a quarter as wide
as in biolord's examples, so that a CPU trains it in minutes.
"""

# pyright: reportMissingImports=false
# The packages lie in the peer's own environment.
from math import ceil

REQUIREMENTS = ("torch==2.13.0", "biolord==0.0.3", "scvi-tools==1.4.2")
TRIALS = [{"learning_rate": rate, "steps": steps} for steps in (500, 2000) for rate in (1e-3, 3e-4)]
_BATCH, _TRAIN_SIZE = 256, 0.95
"""Cells of a batch, and the share of the cells that train: biolord wants some of its own to validate on."""


def predict(cells, wanted, seed, settings):
    """Return log1p cells of the wanted conditions [cells, genes]; driver.py says what is given."""
    import biolord
    import numpy as np
    import pandas as pd

    cells.X = cells.X.toarray()
    biolord.Biolord.setup_anndata(cells, categorical_attributes_keys=["perturbation", "context"])
    size = {"n_latent_attribute_categorical": 4, "decoder_width": 256, "decoder_depth": 4}
    model = biolord.Biolord(cells, n_latent=32, module_params={**size, "use_batch_norm": False, "seed": seed})
    rate, epochs = settings["learning_rate"], ceil(settings["steps"] * _BATCH / (_TRAIN_SIZE * cells.n_obs))
    model.train(
        max_epochs=epochs,
        batch_size=_BATCH,
        train_size=_TRAIN_SIZE,
        check_val_every_n_epoch=epochs,
        enable_checkpointing=False,
        enable_progress_bar=False,
        plan_kwargs={
            "latent_lr": rate,
            "decoder_lr": rate,
            "cosine_scheduler": True,
            "scheduler_max_epochs": epochs,
            "scheduler_final_lr": rate / 10,
        },
    )
    # Other cells have no code of their own to start from.
    is_trained = np.isin(np.arange(cells.n_obs), model.train_indices)
    draw = np.random.default_rng(seed)
    rows = []
    for asked in wanted.itertuples():
        is_start = (cells.obs["perturbation"] == cells.uns["control"]) & (cells.obs["context"] == asked.context)
        rows.append(draw.choice(np.flatnonzero(is_start & is_trained), asked.cells))
    start = cells[np.concatenate(rows)].copy()
    start.obs_names_make_unique()
    labels = np.repeat(wanted["perturbation"].to_numpy(), wanted["cells"])
    start.obs["perturbation"] = pd.Categorical(labels, categories=cells.obs["perturbation"].cat.categories)
    mean, _ = model.predict(start)
    return mean.X
