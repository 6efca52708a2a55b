"""Let a peer predict, in the peer's own environment, as it is asked through the harness of the benchmarks.

The peer's file has a function ``predict(cells, wanted, seed, settings)``:

``cells``
    AnnData of the cells that the peer may see: `X` in log1p (sparse), ``obs["perturbation"]`` and ``obs["context"]``
    (categorical), ``uns["control"]`` the label of control cells. All control cells may be predicted from.
``wanted``
    Table with the columns perturbation, context and cells, how many to predict.
``seed``, ``settings``
    A number, and one entry of the peer's ``TRIALS``.

It returns log1p values [cells, genes], the cells in the order of `wanted`.
"""

# pyright: reportMissingImports=false
# The harness puts its protocol on the path.
import contextlib
import importlib.util
import tempfile
import time
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from driver_protocol import serve


def predict(
    peer: str, cells: str, wanted: dict[str, list], seed: int, settings: dict[str, Any], out: str
) -> dict[str, Any]:
    """Store what the peer predicts, and return what it took."""
    specification: Any = importlib.util.spec_from_file_location("peer", peer)
    module: Any = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    before = time.monotonic()
    # Trainers leave logs in the folder that they run in.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        found = module.predict(ad.read_h5ad(cells), pd.DataFrame(wanted), seed, settings)
    np.save(out, np.asarray(found, dtype=np.float32))
    return {"seconds": round(time.monotonic() - before, 1)}


serve(predict=predict)
