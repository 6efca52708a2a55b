"""Find the genes of a store: those all inputs share, and the highly variable ones among them, by running sums."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bionemo.cellsets.inputs import csr_kernels
from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.inputs.matrices import Rows
from bionemo.screens.errors import InputError, name_list

GENE_POLICIES = ("same", "intersection", "union")
N_BINS = 20


def join_genes(inputs: Sequence[CellInput], policy: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Put the genes of all inputs on one axis.

    The policy says what to do where inputs have different genes: refuse (``same``), keep the shared ones
    (``intersection``), or keep all (``union``), with zeros in the cells of an input that lacks a gene. Return the
    genes, str [G], in the order of the first input that has them, and the position of each input's genes on that axis,
    int64, -1 for a gene that is left out. An InputError counts the genes that differ, or says that none is shared.
    """
    if policy not in GENE_POLICIES:
        raise InputError(f"genes is '{policy}': choose one of {', '.join(GENE_POLICIES)}")
    joined = pd.Index(inputs[0].genes.astype(object))
    for cells in inputs[1:]:
        own = pd.Index(cells.genes.astype(object))
        missing, extra = joined.difference(own, sort=False), own.difference(joined, sort=False)
        if policy == "same" and (len(missing) or len(extra)):
            raise InputError(
                f"{cells.path} lacks {len(missing)} genes of {inputs[0].path} and has {len(extra)} that are not in it: "
                "give every input the same genes, or say --genes intersection or union"
            )
        joined = joined.append(extra) if policy == "union" else joined[joined.isin(own)]
    if len(joined) == 0:
        raise InputError(f"No gene is in all of the {len(inputs)} inputs: name genes alike in all of them")
    positions = [joined.get_indexer(pd.Index(cells.genes.astype(object))).astype(np.int64) for cells in inputs]
    return np.array(joined.tolist(), dtype=str), positions


def check_named(names: Sequence[str], all_genes: np.ndarray) -> None:
    """Raise an InputError that counts and names the genes of a list that the inputs lack."""
    there = set(all_genes.tolist())
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"The inputs lack {len(missing)} of the {len(names)} genes that were asked for ({name_list(missing, 5)}): "
            "name genes as there, or give inputs that measured them"
        )


class GeneStatistics:
    """A `GeneStatistics` sums over cells what tells how variable each gene is; blocks are added one by one.

    Its attribute `n_chosen` counts the cells that the choice of genes is made on.
    """

    def __init__(self, n_genes: int):
        self.n_chosen = 0
        self._sums = np.zeros((n_genes, 4))

    @property
    def values(self) -> np.ndarray:
        """Return the number of non-zeros of each gene, over all cells, float64 [G]."""
        return self._sums[:, 0]

    @property
    def largest(self) -> np.ndarray:
        """Return the largest value of each gene, over all cells, float64 [G]."""
        return self._sums[:, 1]

    def add(
        self, rows: Rows, position: np.ndarray, chosen: np.ndarray, target_sum: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add cells; the parameters and what is returned are those of `csr_kernels.survey`."""
        self.n_chosen += int(chosen.sum())
        return csr_kernels.survey(rows[1:], position, chosen, target_sum or 0.0, self._sums)

    def merge(self, other: "GeneStatistics") -> None:
        """Add the cells of another one."""
        largest = np.maximum(self.largest, other.largest)
        self._sums += other._sums
        self._sums[:, 1] = largest
        self.n_chosen += other.n_chosen

    def state(self) -> dict[str, Any]:
        """Return the sums, to `restore` them from."""
        return {"n_chosen": self.n_chosen, "sums": self._sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums of `state`."""
        self.n_chosen, self._sums = int(state["n_chosen"]), state["sums"]

    def most_variable(self, n_genes: int) -> np.ndarray:
        """Return the columns of the `n_genes` genes of largest normalised dispersion, ascending.

        The dispersion of Seurat's mean.var.plot (Satija et al. 2015) as scanpy's ``flavor="seurat"`` computes it: the
        log of variance over mean of normalised counts, standardised within 20 bins of the log1p mean.
        """
        count = max(self.n_chosen, 2)
        mean = self._sums[:, 2] / count
        variance = np.maximum(self._sums[:, 3] - count * mean**2, 0) / (count - 1)
        dispersion = variance / np.where(mean == 0, 1e-12, mean)
        with np.errstate(divide="ignore"):
            dispersion = np.where(dispersion == 0, np.nan, np.log(dispersion))
        frame = pd.DataFrame({"dispersion": dispersion, "bin": pd.cut(np.log1p(mean), bins=N_BINS)})
        by_bin = frame.groupby("bin", observed=True)["dispersion"]
        centre, spread = by_bin.transform("mean").to_numpy(), by_bin.transform("std").to_numpy()
        # A gene alone in its bin has no spread; it gets the value 1.
        alone = np.isnan(spread)
        normalised = (dispersion - np.where(alone, 0, centre)) / np.where(alone, centre, spread)
        normalised = np.nan_to_num(normalised, nan=-np.inf)
        return np.sort(np.argsort(-normalised, kind="stable")[:n_genes])
