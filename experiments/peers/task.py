"""What a peer gets of a fold, and nothing else: the one place that keeps held-out cells from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bionemo.bench.harness.environments import ArmError
from bionemo.cellsets import CellStore
from bionemo.perteval.metrics.formulas import correlations
from bionemo.screens.controls import PARTS, ControlRole, ControlRoles
from bionemo.screens.errors import InputError
from bionemo.screens.inner_split import inner_split
from bionemo.screens.obs import labels_of
from bionemo.screens.split import Split
from experiments.screens import Screen

TARGET_SUM = 1e4
Part = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A `Task` is what a peer is asked: to predict conditions from cells that show none of what is held out."""

    cells: ad.AnnData
    """Cells that the peer may see: log1p [n, G], ``obs`` perturbation and context, ``uns["control"]``."""
    wanted: pd.DataFrame
    """Perturbation, context and number of cells of each condition to predict."""
    keys: tuple[str, str]
    """Names of the screen's columns of perturbations and contexts."""
    roles: ControlRoles
    """Which control cells have which role; the peer has those of the role input alone where it predicts."""
    facts: dict[str, Any]
    """What else the file of the prediction says of itself."""

    def prediction(self, values: np.ndarray) -> ad.AnnData:
        """Return what a peer predicted [cells, G] in the form that is scored; values below 0 become 0.

        Raises
        ------
        ArmError
            It has another shape, or values that are not finite.
        """
        asked = (int(self.wanted["cells"].sum()), self.cells.n_vars)
        if values.shape != asked:
            raise ArmError(f"it predicted an array of shape {values.shape}, and {asked} was asked for")
        if not np.isfinite(values).all():
            raise ArmError("it predicted values that are not finite")
        columns = {
            key: np.repeat(self.wanted[name].to_numpy(), self.wanted["cells"])
            for key, name in zip(self.keys, ("perturbation", "context"), strict=True)
        }
        obs = pd.DataFrame(columns, index=pd.Index([f"predicted_{number}" for number in range(len(values))]))
        made = ad.AnnData(sp.csr_matrix(np.maximum(values, 0)), obs=obs, var=pd.DataFrame(index=self.cells.var_names))
        made.uns["prediction"] = {**self.facts, "controls": self.roles.to_dict()}
        # With these the evaluation refuses a peer that got a held-out condition.
        labels: Any = self.cells.obs[["context", "perturbation"]]
        made.uns["training_conditions"] = labels.drop_duplicates()
        return made


@dataclass(frozen=True, kw_only=True)
class Cells:
    """`Cells` are all cells of a screen on the panel of genes of a fold, and how the fold divides them."""

    table: ad.AnnData
    """Log1p [n, G], ``obs`` perturbation and context, ``uns["control"]``."""
    split: Split
    """The fold's."""
    choosing: Split
    """The fold's; where it marks no validation conditions, with some of the training conditions marked as such."""
    screen: Screen

    @classmethod
    def of(cls, screen: Screen, work: Path) -> "Cells":
        """Read the cells of a screen, normalised over all genes, on the genes that its training cells chose.

        Raises
        ------
        InputError
            The split marks no validation conditions, and none can be drawn from the training conditions.
        """
        file, keys = screen.source(work), screen.columns
        raw = ad.read_h5ad(file)
        counts = sp.csr_matrix(raw.X, dtype=np.float64)
        scale = TARGET_SUM / np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
        genes = raw.var_names if screen.n_genes is None else CellStore.open(screen.store(work)).genes
        columns = sp.csr_matrix(counts[:, raw.var_names.get_indexer(genes)])
        values = sp.csr_matrix(sp.diags(scale) @ columns, dtype=np.float32)
        labels = {
            name: labels_of(pd.DataFrame(raw.obs), keys[f"{name}_key"], file) for name in ("perturbation", "context")
        }
        obs = pd.DataFrame(labels, index=raw.obs_names, dtype="category")
        values.data = np.log1p(values.data)
        table = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
        table.uns["control"] = keys["control"]
        split = Split.from_toml(screen.split)
        observed = set(zip(labels["context"], labels["perturbation"], strict=True))
        marked = any(split.part(*condition) == "val" for condition in observed)
        choosing = split if marked else inner_split(split, observed, keys["control"])
        if choosing is None:
            raise InputError(f"{screen.split} has no conditions to choose settings with: mark some as val")
        return cls(table=table, split=split, choosing=choosing, screen=screen)

    def task(self, part: Part, seed: int) -> Task:
        """Return what to predict of the validation or test conditions, and the cells that may be seen for it.

        These are the perturbed cells that train, and control cells: all of a context that has no held-out condition to
        predict, and those of the role input of one that has. Seeds take turns in which cells have which role.
        """
        roles = ControlRoles(rotation=seed % PARTS)
        obs: Any = self.table.obs
        split, is_control = self.choosing if part == "val" else self.split, self._is_control
        parts = split.parts(obs["context"], obs["perturbation"], self.table.uns["control"])
        scored = {str(name) for name in obs["context"][np.isin(parts, (part, "test")) & ~is_control]}
        is_input = roles.has(self.table.obs_names, ControlRole.INPUT)
        seen = np.where(is_control, ~obs["context"].isin(scored) | is_input, parts == "train")
        cells = self.table[seen].copy()
        # No name of a perturbation that the peer has no cell of, either.
        cells.obs = obs[seen].apply(lambda column: column.cat.remove_unused_categories())
        wanted = obs[(parts == part) & ~is_control].astype(str).value_counts(sort=False).rename("cells").reset_index()
        columns = self.screen.columns
        chosen = {"hvg_from": "train", "hvg_split": self.split.hash}
        genes = {"hvg_from": "given"} if self.screen.n_genes is None else chosen
        facts = {name: columns[name] for name in ("perturbation_key", "context_key", "control")}
        facts |= {"target_sum": TARGET_SUM, **genes}
        own = (columns["perturbation_key"], columns["context_key"])
        return Task(cells=cells, wanted=wanted, keys=own, roles=roles, facts=facts)

    def correlation(self, task: Task, predicted: ad.AnnData) -> float:
        """Return the mean correlation of predicted and observed shifts of a validation task; 0 for one without a shift.

        Observed shifts are measured against control cells of the role target, predicted ones against those of the role
        input, so that no score that chooses settings has seen the control cells of the truth.
        """
        found = []
        obs: Any = self.table.obs
        for perturbation, context in task.wanted[["perturbation", "context"]].itertuples(index=False):
            here = (obs["context"] == context).to_numpy()
            control = {
                role: _mean(self.table[here & self._is_control & task.roles.has(self.table.obs_names, role)])
                for role in (ControlRole.INPUT, ControlRole.TARGET)
            }
            observed = _mean(self.table[here & (obs["perturbation"] == perturbation).to_numpy()])
            of_file = pd.DataFrame(predicted.obs)[list(task.keys)].to_numpy() == [perturbation, context]
            shifts = (
                _mean(predicted[of_file.all(axis=1)]) - control[ControlRole.INPUT],
                observed - control[ControlRole.TARGET],
            )
            found.append(correlations(*(shift[None] for shift in shifts))[0])
        return float(np.nan_to_num(found).mean())

    @property
    def _is_control(self) -> np.ndarray:
        obs: Any = self.table.obs
        return (obs["perturbation"] == self.table.uns["control"]).to_numpy()


def _mean(cells: ad.AnnData) -> np.ndarray:
    values: Any = cells.X
    return np.asarray(values.mean(axis=0, dtype=np.float64)).ravel()
