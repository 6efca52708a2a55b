"""Screens in memory, and folds of their training conditions: what choices are made on, without the test conditions."""

import tomllib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np

from bionemo.cellsets import CellStore
from bionemo.perteval.inputs.screen import Screen as Observed
from bionemo.perteval.populations.estimates import Estimates
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.linear_start.means import ConditionMeans
from bionemo.screens import Condition
from bionemo.screens.controls import PARTS, ControlRole, ControlRoles
from experiments.screens import REAL_SCREENS, Screen, glioblastoma, papalexi

FEWEST = 3
"""A condition of fewer cells is in no fold."""
THP1_HELD_OUT = (("rep_1", 12), ("rep_2", 12), ("rep_3", 6), ("rep_3", 6))
"""Targets that a fold holds out, and where; the third replicate has thirteen left beside the test conditions."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Conditions that train, those they are to predict, and those that neither may see.

    `rotation` says which part of the control cells has which role in it; folds take turns.
    """

    train: tuple[Condition, ...]
    held_out: tuple[Condition, ...]
    apart: tuple[Condition, ...]
    rotation: int = 0


class Cells:
    """A screen: its cells, the means of its conditions, and what the baselines need.

    Predictions are made from the control cells of the role input and fitted to shifts from those of the role target;
    what they are scored against is measured from those of the role truth.

    Parameters
    ----------
    screen
        Which.
    work
        Folder of stores.
    """

    def __init__(self, screen: Screen, work: Path):
        self.name, keys = screen.name, screen.columns
        source = screen.source(work)
        self._store = store = CellStore(screen.store(work))
        self.perturbation_key, self.context_key = keys["perturbation_key"], keys["context_key"]
        self.control, self.target_sum = store.control, store.target_sum
        self.genes = np.array(store.genes)
        self.contexts, self.labels = [str(c) for c in store.contexts], [str(p) for p in store.perturbations]
        self.adata = ad.read_h5ad(source)
        contexts, labels = (
            self.adata.obs[key].astype(str).to_numpy() for key in (self.context_key, keys["perturbation_key"])
        )
        counts = self.adata.X.tocsr().astype(np.float64)  # type: ignore[union-attr]
        library = np.asarray(counts.sum(1)).ravel()
        counts.data = np.log1p(
            counts.data * np.repeat(self.target_sum / np.maximum(library, 1), np.diff(counts.indptr))
        )
        self.expression, self.library = counts.astype(np.float32), library
        found = {(c, p): np.flatnonzero((contexts == c) & (labels == p)) for c in self.contexts for p in self.labels}
        self._controls = {c: found.pop((c, self.control)) for c in self.contexts}
        self._perturbed = {condition: rows for condition, rows in found.items() if len(rows) >= FEWEST}
        self.conditions = sorted(self._perturbed)
        self._divided: dict[int, Cells] = {}
        self._divide(0)

    def turned(self, rotation: int) -> "Cells":
        """The same screen, its control cells divided by a rotation of their roles."""
        if rotation not in self._divided:
            self._divided[rotation] = found = copy(self)
            found._divide(rotation)
        return self._divided[rotation]

    def _divide(self, rotation: int) -> None:
        roles = ControlRoles(rotation=rotation)
        of = {
            role: {c: rows[roles.has(self.adata.obs_names[rows], role)] for c, rows in self._controls.items()}
            for role in ControlRole
        }
        self.means = ConditionMeans(self._store, np.ones(len(self._store.runs), dtype=bool), roles)
        self.rows = self._perturbed | {(c, self.control): rows for c, rows in of[ControlRole.INPUT].items()}
        self.truth_rows = of[ControlRole.TRUTH]
        """Context -> its control cells of the role truth; those in `rows` have the role input."""

    def index(self, condition: Condition) -> tuple[int, int]:
        """The store's indices of a condition."""
        return self.contexts.index(condition[0]), self.labels.index(condition[1])

    def delta(self, condition: Condition) -> np.ndarray:
        """Observed mean less that of the context's control cells of the role truth, log1p [G]."""
        truth = self.expression[self.truth_rows[condition[0]]].mean(0)
        return self.means.mean[self.index(condition)] - np.asarray(truth, dtype=np.float64).ravel()

    def training_delta(self, condition: Condition) -> np.ndarray:
        """Observed mean less that of the context's control cells of the role target, log1p [G]."""
        return self.means.delta(self.index(condition), ControlRole.TARGET)

    def control_mean(self, context: str) -> np.ndarray:
        """Mean of a context's control cells of the role input, log1p [G]."""
        return self.means.control[ControlRole.INPUT][self.contexts.index(context)]

    def vocabulary(self, train: Sequence[Condition]) -> Vocabulary:
        """Of a model that these conditions train."""
        labels = sorted({label for _, label in train})
        return Vocabulary(
            genes=tuple(map(str, self.genes)),
            contexts=tuple(sorted({context for context, _ in train})),
            perturbations=(self.control, *labels),
            start_labels=tuple(labels),
            batches=(),
            control=self.control,
            kind="counts",
            target_sum=self.target_sum,
            separator="",
        )

    def trained(self, train: Sequence[Condition]) -> ConditionMeans:
        """Means of the control cells and of the conditions that train."""
        known, found = {self.index(condition) for condition in train}, copy(self.means)
        found.mean = {condition: mean for condition, mean in self.means.mean.items() if condition in known}
        return found

    def baselines(self, train: Sequence[Condition]) -> Estimates:
        """The evaluation's baselines, made from these conditions."""
        return Estimates(
            Observed(
                genes=self.genes,
                observed=self.expression,
                library=self.library,
                target_sum=self.target_sum,
                rows=self.rows,
                predictions={},
                control=self.control,
                training=tuple(train),
            )
        )


def thp1(work: Path, seeds: int) -> tuple[Cells, list[Fold]]:
    """THP-1 CRISPR: for every seed, targets held out of each replicate; the recipe's test conditions are apart."""
    screen = papalexi("split")
    cells = Cells(screen, work)
    held = tomllib.loads(screen.split.read_text())["fewshot"]["papalexi.rep_3"]["test"]
    apart = tuple(("rep_3", label) for label in held)
    pool = [condition for condition in cells.conditions if condition not in apart]
    folds = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for context, count in THP1_HELD_OUT:
            there = [condition for condition in pool if condition[0] == context]
            out = [there[place] for place in rng.permutation(len(there))[:count]]
            train = tuple(condition for condition in pool if condition not in out)
            folds.append(Fold(train=train, held_out=tuple(out), apart=apart, rotation=seed % PARTS))
    return cells, folds


def patients(work: Path) -> tuple[Cells, list[Fold]]:
    """Glioblastoma: for each patient that a test leaves out, each of the other four left out in turn, all rotations."""
    cells = Cells(glioblastoma(REAL_SCREENS / "glioblastoma_panobinostat" / "split.toml"), work)
    folds = [
        Fold(
            train=tuple(c for c in cells.conditions if c not in (test, out)),
            held_out=(out,),
            apart=(test,),
            rotation=rotation,
        )
        for test in cells.conditions
        for out in cells.conditions
        for rotation in range(PARTS)
        if out != test
    ]
    return cells, folds
