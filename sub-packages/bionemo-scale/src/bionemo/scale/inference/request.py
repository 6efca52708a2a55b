"""A `Request` is what a model is asked for, checked, and cut into shards that can be predicted one by one."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import torch

from bionemo.scale.inference import generate
from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.generate import Generator, joined
from bionemo.scale.inference.inputs import Columns
from bionemo.scale.inference.output import as_anndata
from bionemo.scale.inference.populations import Population
from bionemo.scale.inference.submission import Submission
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.screens.digests import digest

Report = Callable[[int], object]
"""Is told the number of cells as they are predicted."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A `Request` predicts each of its shards on its own, and each of them is the same whoever does it, and when."""

    generator: Generator
    cells: ControlCells
    columns: Columns
    genes: tuple[str, ...]
    shards: list[list[Population]]
    facts: Mapping[str, Any]
    """What ``uns["prediction"]`` says."""
    trained: pd.DataFrame | None
    """What ``uns["training_conditions"]`` says."""
    submission: Submission | None = None
    """How the cells are laid out for the Virtual Cell Challenge; None where they stay log1p."""

    @property
    def populations(self) -> list[Population]:
        """Return the populations of all shards, in their order."""
        return [population for shard in self.shards for population in shard]

    @property
    def sizes(self) -> list[int]:
        """Return the number of cells of each shard."""
        sizes = [sum(population.cells for population in shard) for shard in self.shards]
        if self.submission is not None:
            sizes[0] += len(self.cells.rows)
        return sizes

    def shard(self, number: int, report: Report) -> ad.AnnData:
        """Predict the cells of a shard; an InputError where they are not finite or the control cells cannot be read."""
        return self._made(self.shards[number], number, self.generator.predict(self.shards[number], report))

    def whole(self, report: Report) -> ad.AnnData:
        """Predict all cells; raises as :meth:`shard` does."""
        predicted = joined([self.generator.predict(shard, report) for shard in self.shards])
        return self._made(self.populations, 0, predicted)

    def _made(self, populations: Sequence[Population], number: int, predicted: generate.Prediction) -> ad.AnnData:
        labels = {
            "perturbation": sorted({p.perturbation for p in self.populations}),
            "batch": sorted({str(p.batch) for p in self.populations if p.batch is not None}),
        }
        first = [0, *accumulate(self.sizes)][number]
        if self.submission is not None:
            made = self.submission.lay_out(
                predicted, populations, self.cells, first=first, with_controls=not number, labels=labels["perturbation"]
            )
            made.uns["prediction"] = dict(self.facts)
        else:
            made = as_anndata(
                predicted, self.cells, populations, self.columns, self.genes, self.facts, first=first, labels=labels
            )
        if self.trained is not None:
            made.uns["training_conditions"] = self.trained
        return made

    def plan(self, model: ScaleModel) -> dict[str, Any]:
        """Say what tells this prediction from others: settings, conditions, weights and control cells, fit for JSON."""
        conditions = [[*p.names, p.cells] for p in self.populations]
        controls = [*map(str, self.cells.obs.index), *_stamp(self.facts["controls_file"])]
        layout = {} if self.submission is None else {"genes": digest(self.submission.genes)}
        return {
            **layout,
            "prediction": dict(self.facts),
            "computed": [generate.SETS_AT_ONCE, [len(shard) for shard in self.shards]],
            "conditions": digest(conditions),
            "control_cells": digest(controls),
            "weights": _weights_digest(model),
        }


def _weights_digest(model: ScaleModel) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor is not None:
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _stamp(path: str) -> tuple[int, ...]:
    """Return what changes when a file is written again."""
    found = Path(path).stat() if path else None
    return () if found is None else (found.st_size, found.st_mtime_ns)
