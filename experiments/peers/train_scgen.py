"""scGen as in pertpy 1.0.3 (MIT): an auto-encoder in whose latent space a perturbation is one vector.

The vector is the mean latent of a perturbation's cells less that of control cells, in the contexts that have both; it
is added to the latents of the wanted context's control cells, which are then decoded. Layers are a quarter as wide as
scGen's own, so that a CPU trains it in minutes.
"""

# pyright: reportMissingImports=false
# The packages lie in the peer's own environment.
from math import ceil

REQUIREMENTS = ("torch==2.13.0", "pertpy[scgen]==1.0.3", "scvi-tools==1.4.2", "statsmodels==0.14.5")
TRIALS = [{"n_latent": latent, "steps": steps} for steps in (500, 2000) for latent in (100, 20)]
_BATCH, _TRAIN_SIZE = 256, 0.95


def predict(cells, wanted, seed, settings):
    """Return log1p cells of the wanted conditions [cells, genes]; driver.py says what is given."""
    import numpy as np
    import scvi
    from pertpy.tools import Scgen

    scvi.settings.seed = seed
    cells.X = cells.X.toarray()
    control, contexts = cells.uns["control"], cells.obs["context"]
    Scgen.setup_anndata(cells, batch_key="perturbation", labels_key="context")
    model = Scgen(cells, n_latent=settings["n_latent"], n_hidden=200)
    epochs = ceil(settings["steps"] * _BATCH / (_TRAIN_SIZE * cells.n_obs))
    model.train(max_epochs=epochs, batch_size=_BATCH, train_size=_TRAIN_SIZE, enable_progress_bar=False)
    draw = np.random.default_rng(seed)
    predicted = []
    for asked in wanted.itertuples():
        start = np.flatnonzero((cells.obs["perturbation"] == control) & (contexts == asked.context))
        known = contexts[cells.obs["perturbation"] == asked.perturbation].unique().tolist()
        moved, _ = model.predict(
            ctrl_key=control,
            stim_key=asked.perturbation,
            adata_to_predict=cells[draw.choice(start, asked.cells)].copy(),
            restrict_arithmetic_to={"context": known},
        )
        predicted.append(moved.X)
    return np.concatenate(predicted)
