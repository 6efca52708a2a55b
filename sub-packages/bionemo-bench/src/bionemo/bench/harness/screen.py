"""Draw the screen of the benchmarks: counts of a stated number of cells, genes and non-zero values a cell.

Nothing of it is biology but the sizes: a gene's share of the cells it is seen in is log-normal, scaled so that a cell
has the stated number of values on average, and a count is geometric. The file is written block by block, each drawn
twice from the seed of its first cell: once for the lengths of the rows, and once for the rows.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem
from scipy.optimize import root_scalar
from tqdm import tqdm

from bionemo.screens.errors import InputError

CONTROL = "control"
CONTROL_SHARE = 0.1
TARGET_SUM = 10_000.0
DATA_FILE, FACTS_FILE = "data.h5ad", "facts.json"
_BLOCK_CELLS = 5_000
_RUN_DTYPE = np.dtype([("start", np.int64), ("length", np.int64), ("is_control", bool)])
_MORE_COUNT = 0.35  # chance that a count is one larger


@dataclass(frozen=True, kw_only=True)
class ScreenSize:
    """A `ScreenSize` says how large the screen is.

    A tenth of the cells are controls, the others are spread over contexts and perturbations alike.
    """

    cells: int
    genes: int
    values_per_cell: int
    """Mean number of non-zero counts of a cell."""
    contexts: int
    perturbations: int

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}: ask for at least 1")
        if self.values_per_cell > self.genes // 2:
            raise InputError(
                f"{self.values_per_cell} values a cell are more than half of {self.genes} genes: ask for fewer"
            )
        if self.cells < (least := 20 * self.contexts * (self.perturbations + 1)):
            raise InputError(f"cells is {self.cells}: so many conditions need at least {least}")

    @property
    def name(self) -> str:
        """Return a folder name that tells sizes apart."""
        return "-".join(str(value) for value in asdict(self).values())


def write_screen(folder: Path, size: ScreenSize, *, progress: bool = True) -> None:
    """Write the screen in random order, as CSR counts, uncompressed, to data.h5ad in `folder`."""
    share = _gene_shares(size)
    context, perturbation = _labels(size)
    lengths = np.empty(size.cells, dtype=np.int64)
    blocks = [slice(start, min(start + _BLOCK_CELLS, size.cells)) for start in range(0, size.cells, _BLOCK_CELLS)]
    with h5py.File(folder / DATA_FILE, "w") as file, tqdm(
        total=2 * size.cells, desc="screen", unit="cell", unit_scale=True, disable=not progress
    ) as bar:  # fmt: skip
        for block in blocks:
            lengths[block] = np.count_nonzero(_draw(block, share)[1], axis=1)
            bar.update(block.stop - block.start)
        _write_labels(file, context, perturbation, np.arange(size.cells), size)
        matrix = _CsrGroup(file, lengths, size.genes)
        for block in blocks:
            matrix.append(*_counts(*_draw(block, share), share))
            bar.update(block.stop - block.start)


def sort_screen(source: Path, target: Path) -> None:
    """Write the screen of `source` in the order of its conditions, with the tables that a reader of it needs.

    The file is sorted in memory. `target` then holds ``data.h5ad``, ``cell_of_row.npy`` (the number of each row's
    cell), ``library_size.npy``, ``runs.npy`` (start, length, is_control) and ``facts.json``.
    """
    facts = json.loads((source / FACTS_FILE).read_text())
    size = ScreenSize(**facts["size"])
    context, perturbation = _labels(size)
    # Stable, so that cells of a condition keep the random order they come in.
    order = np.lexsort((perturbation, context))
    counts: Any  # h5py cannot say whether a name is a group or an array
    with h5py.File(source / DATA_FILE) as counts, h5py.File(target / DATA_FILE, "w") as out:
        parts = (counts["X/data"][:], counts["X/indices"][:], counts["X/indptr"][:])
        cells = sp.csr_matrix(parts, shape=(size.cells, size.genes))[order]
        _write_labels(out, context[order], perturbation[order], order, size)
        _CsrGroup(out, np.diff(cells.indptr), size.genes).append(cells.data, cells.indices)
        library_size = np.asarray(cells.sum(axis=1, dtype=np.float64)).ravel().astype(np.float32)
    condition = context[order].astype(np.int64) * (size.perturbations + 1) + perturbation[order]
    starts = np.flatnonzero(np.diff(condition, prepend=-1))
    runs = np.empty(len(starts), dtype=_RUN_DTYPE)
    runs["start"], runs["length"] = starts, np.diff(starts, append=size.cells)
    runs["is_control"] = perturbation[order][starts] == 0
    np.save(target / "cell_of_row.npy", order)
    np.save(target / "library_size.npy", library_size)
    np.save(target / "runs.npy", runs)
    (target / FACTS_FILE).write_text(json.dumps(facts))


def write_facts(folder: Path, size: ScreenSize) -> None:
    """Write what readers of the screen need to know of it."""
    facts = {"size": asdict(size), "genes": size.genes, "target_sum": TARGET_SUM}
    (folder / FACTS_FILE).write_text(json.dumps(facts))


def reference_counts(folder: Path, cells: np.ndarray) -> np.ndarray:
    """Return counts of cells of the screen, int64 [len(cells), G], read from its file value by value."""
    genes = json.loads((folder / FACTS_FILE).read_text())["genes"]
    counts = np.zeros((len(cells), genes), dtype=np.int64)
    file: Any
    with h5py.File(folder / DATA_FILE) as file:
        values, columns, pointers = (file["X"][name] for name in ("data", "indices", "indptr"))
        for row, cell in enumerate(cells):
            begin, end = pointers[cell], pointers[cell + 1]
            counts[row, columns[begin:end]] = values[begin:end]
    return counts


class _CsrGroup:
    """A `_CsrGroup` is X of an h5ad file as contiguous CSR arrays, filled from the front."""

    def __init__(self, file: h5py.File, lengths: np.ndarray, genes: int):
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (len(lengths), genes)})
        total = int(lengths.sum())
        self._values = group.create_dataset("data", shape=(total,), dtype=np.float32)
        self._columns = group.create_dataset("indices", shape=(total,), dtype=np.int32)
        group.create_dataset("indptr", data=np.concatenate([[0], np.cumsum(lengths)]))
        self._end = 0

    def append(self, values: np.ndarray, columns: np.ndarray) -> None:
        begin, self._end = self._end, self._end + len(values)
        self._values[begin : self._end], self._columns[begin : self._end] = values, columns


def _labels(size: ScreenSize) -> tuple[np.ndarray, np.ndarray]:
    """Return context and perturbation of each cell, as numbers; perturbation 0 is the control."""
    rng = np.random.default_rng(0)
    context = rng.integers(0, size.contexts, size.cells).astype(np.int32)
    perturbation = rng.integers(1, size.perturbations + 1, size.cells).astype(np.int32)
    perturbation[rng.random(size.cells) < CONTROL_SHARE] = 0
    return context, perturbation


def _write_labels(
    file: h5py.File, context: np.ndarray, perturbation: np.ndarray, cells: np.ndarray, size: ScreenSize
) -> None:
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    contexts = [f"context{number:03}" for number in range(size.contexts)]
    # "control" sorts before "p": the order of the labels is that of the numbers.
    perturbations = [CONTROL, *(f"p{number:05}" for number in range(1, size.perturbations + 1))]
    obs = pd.DataFrame(
        {
            "context": pd.Categorical.from_codes(context, categories=contexts),
            "perturbation": pd.Categorical.from_codes(perturbation, categories=perturbations),
        },
        index=cells.astype(str),
    )
    write_elem(file, "obs", obs)
    write_elem(file, "var", pd.DataFrame(index=pd.Index([f"gene{number:05}" for number in range(size.genes)])))


def _gene_shares(size: ScreenSize) -> np.ndarray:
    """Return in which share of the cells each gene is seen; they sum to the values of a cell."""
    odds = np.exp(np.random.default_rng(1).normal(0, 1, size.genes))
    seen = root_scalar(lambda x: (1 - np.exp(-x * odds)).sum() - size.values_per_cell, bracket=(0, 1e6)).root
    return 1 - np.exp(-seen * odds)


def _draw(block: slice, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return uniform numbers of a block's cells and genes, and which of the counts are not zero: [cells, G] both."""
    generator = np.random.default_rng((2, block.start))
    uniform = generator.random((block.stop - block.start, len(share)), dtype=np.float32)
    return uniform, uniform < share


def _counts(uniform: np.ndarray, seen: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and genes of the values that are not zero, row by row."""
    genes = np.nonzero(seen)[1]
    # Below its gene's share a number is uniform as well, so it serves for the count too.
    rest = np.maximum(uniform[seen], 2.0**-25) / share[genes]
    return 1 + np.floor(np.log(rest) / np.log(_MORE_COUNT)).astype(np.float32), genes.astype(np.int32)
