"""Hand out the sets of a store as the batches that STATE trains on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bionemo.cellsets import CellStore, SetBatch, SetLoader, SetSampler
from bionemo.screens import Split
from bionemo.screens.controls import ControlRoles


class StoreBatches:
    """A `StoreBatches` is an epoch of our loader in the form of cell-load's: rows of B full sets, one after another.

    STATE knows no padding: a short set's cells are repeated, as cell-load repeats them. The data module of STATE gives
    its sizes and its tables of perturbations, contexts and batches.
    """

    num_workers = 0

    def __init__(self, module: Any, store: str, split: str):
        self._store = CellStore.open(Path(store))
        trained = self._store.parts(Split.from_toml(split), ControlRoles()) == "train"
        self.batch_size = module.batch_size
        sampler = SetSampler(
            self._store, trained, set_size=module.cell_sentence_len, sets_per_batch=module.batch_size, seed=0
        )
        self._loader = SetLoader(self._store, sampler, epochs=1)
        self._tables = {
            "pert": _table(self._store.perturbations, module.pert_onehot_map),
            "cell_type": _table(self._store.contexts, module.cell_type_onehot_map),
            "batch": _table(self._store.contexts, module.batch_onehot_map),
        }

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._loader:
            yield self._translated(batch)

    def _translated(self, batch: SetBatch) -> dict[str, Any]:
        control, target, mask = batch.control, batch.perturbed, batch.mask
        filled = mask.any(1)
        sets, size = mask.shape
        if not bool(mask.all()):
            lengths = mask.sum(1).clamp(min=1)
            place = (torch.arange(size) % lengths[:, None])[..., None].expand_as(control)
            control, target = control.gather(1, place)[filled], target.gather(1, place)[filled]
            sets = int(filled.sum())
        labels, contexts = batch.perturbation[filled], batch.context[filled]
        cells = sets * size
        return {
            "ctrl_cell_emb": control.reshape(cells, -1),
            "pert_cell_emb": target.reshape(cells, -1),
            "pert_emb": _each(self._tables["pert"][labels], size),
            "cell_type_onehot": _each(self._tables["cell_type"][contexts], size),
            "batch": _each(self._tables["batch"][contexts], size),
            "perturbed_cells": int(mask[batch.perturbation != self._store.control_index].sum()),
        }


def _table(names: Any, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([rows[str(name)].float() for name in names])


def _each(rows: torch.Tensor, times: int) -> torch.Tensor:
    """Return the row of each set for each of its cells."""
    return rows[:, None].expand(-1, times, -1).reshape(-1, rows.shape[1])
