"""Any cells to a store, in two readings: the first checks and counts, the second brings rows to their place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bionemo.cellsets.cell_input import CellInput
from bionemo.cellsets.conditions import Conditions
from bionemo.cellsets.errors import InputError, name_list
from bionemo.cellsets.genes import GeneStatistics, join_genes, take_columns
from bionemo.cellsets.sorting import PlaceInRun, RowSorter, StoredRows
from bionemo.cellsets.split import Split
from bionemo.cellsets.store import CellStore
from bionemo.cellsets.writer import StoreWriter, column_type, new_store

SHUFFLE_SEED = 0
"""Cells are permuted inside their run by this seed, so equal inputs make equal stores."""
HVG_SOURCES = ("train", "all")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What a store is made of; the parameters of `prepare` of the same names.

    Attributes
    ----------
    keys : dict
        The obs columns of ``perturbation``, ``context`` and ``batch`` (or None).
    control, genes, n_genes, hvg_from, target_sum, already_log1p
        As for `prepare`.
    split : Split, optional
        Says which cells train.
    """

    keys: Mapping[str, str | None]
    control: str
    genes: str
    n_genes: int | None
    hvg_from: str
    target_sum: float
    split: Split | None
    already_log1p: bool

    def __post_init__(self):
        if self.n_genes is not None and self.n_genes < 1:
            raise InputError(f"n_genes is {self.n_genes}: it must be at least 1")
        if not (np.isfinite(self.target_sum) and self.target_sum > 0):
            raise InputError(f"target_sum is {self.target_sum}: it must be above 0")
        if self.hvg_from not in HVG_SOURCES:
            raise InputError(f"hvg_from is '{self.hvg_from}': choose one of {', '.join(HVG_SOURCES)}")


def build_store(
    inputs: Sequence[CellInput],
    store: Path,
    config: BuildConfig,
    *,
    provenance: Mapping[str, Any],
    overwrite: bool,
    progress: bool,
) -> CellStore:
    """Write a store of the cells of all inputs.

    Parameters
    ----------
    inputs : sequence of CellInput
        Open.
    store : Path
        The directory to make.
    config : BuildConfig
        What to make of them.
    provenance : mapping
        Entries of the manifest that say where the cells come from.
    overwrite, progress : bool
        As for `prepare`.

    Returns
    -------
    CellStore
        The store, opened.

    Raises
    ------
    InputError
        If anything about the input is wrong, or the store cannot be written.
    """
    n_cells = sum(cells.n_cells for cells in inputs)
    with new_store(store, overwrite=overwrite) as folder, tqdm(
        total=2 * n_cells, desc="prepare", unit="cell", unit_scale=True, disable=not progress
    ) as bar:  # fmt: skip
        bar.set_postfix_str("reading labels")
        build = _Build(inputs, config, bar)
        bar.set_postfix_str("checking values")
        build.read_statistics()
        build.choose_genes()
        tables = {
            "genes": build.genes.tolist(),
            "contexts": build.conditions.tables["context"].tolist(),
            "perturbations": build.conditions.tables["perturbation"].tolist(),
            "batches": build.conditions.tables["batch"].tolist(),
        }
        writer = StoreWriter(folder, build.conditions.runs, tables, build.value_type)
        bar.set_postfix_str("sorting by condition")
        scratch = folder / "scratch"
        scratch.mkdir()
        rows = build.sorted_rows(scratch)
        bar.set_postfix_str("writing")
        writer.write(rows)
        scratch.rmdir()
        writer.finish(
            {
                "kind": "log1p" if config.already_log1p else "counts",
                "control": config.control,
                "keys": dict(config.keys),
                "target_sum": config.target_sum,
                **provenance,
                "gene_selection": build.selection,
                "shuffle_seed": SHUFFLE_SEED,
            }
        )
    return CellStore.open(store)


class _Build:
    """The two readings and what the first one finds."""

    def __init__(self, inputs: Sequence[CellInput], config: BuildConfig, bar: tqdm):
        self._inputs, self._config, self._bar = inputs, config, bar
        for cells in inputs:
            cells.check_names()
        self._all_genes, self._positions = join_genes(inputs, config.genes)
        self.conditions = Conditions(inputs, config.keys, config.control)
        self._statistics = GeneStatistics(len(self._all_genes))
        self._run_values = np.zeros(len(self.conditions.runs), dtype=np.int64)
        self._training = self._training_runs()

    def read_statistics(self) -> None:
        """Read every value once: check it, and add it to the sums."""
        for position, matrix, runs, _ in self._blocks():
            scale = None if self._config.already_log1p else self._config.target_sum / np.maximum(_totals(matrix), 1)
            joined = take_columns(matrix, position, len(self._all_genes))
            self._statistics.add(joined, scale, self._training[runs])
            self._run_values += np.bincount(
                runs, weights=np.diff(joined.indptr), minlength=len(self._run_values)
            ).astype(np.int64)

    def choose_genes(self) -> None:
        """Choose the store's genes, and with them the type of its values."""
        config, statistics, of = self._config, self._statistics, len(self._all_genes)
        chosen, source = np.arange(of), "all genes of the input"
        selects = config.n_genes is not None and config.n_genes < of
        on_training = config.split is not None and config.hvg_from == "train"
        if selects:
            assert config.n_genes is not None
            chosen = statistics.most_variable(config.n_genes)
            on = "the split's training cells" if on_training else "all cells"
            source = f"{config.n_genes} highly variable genes (Seurat dispersion) on {on}"
        if not statistics.values[chosen].any():
            raise InputError(
                f"{name_list(cells.path.name for cells in self._inputs)} holds zeros only: "
                "choose another layer with --layer"
            )
        split_hash = config.split.hash if config.split is not None and selects and on_training else None
        self.selection = {"of": of, "source": source, "joined": config.genes, "split_hash": split_hash}
        self.genes, self._kept = self._all_genes[chosen], np.full(of, -1, dtype=np.int64)
        self._kept[chosen] = np.arange(len(chosen))
        self._share = statistics.values[chosen].sum() / statistics.values.sum()
        self.value_type = np.dtype(np.float32)
        if not config.already_log1p:
            largest = statistics.largest[chosen].max()
            self.value_type = next(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(t).max)

    def sorted_rows(self, scratch: Path) -> Iterator[StoredRows]:
        """Read every value again and return the store's rows in order; `scratch` is an empty directory."""
        runs_table, place = self.conditions.runs, PlaceInRun(self.conditions.runs, SHUFFLE_SEED)
        sorter = RowSorter(scratch, runs_table["length"], self._run_values * self._share)
        for position, matrix, runs, names in self._blocks():
            kept = take_columns(matrix, np.append(self._kept, -1)[position], len(self.genes))
            library_size = np.full(len(runs), np.nan) if self._config.already_log1p else _totals(matrix)
            rows = StoredRows(
                values=kept.data.astype(self.value_type),
                columns=kept.indices.astype(column_type(len(self.genes))),
                lengths=np.diff(kept.indptr).astype(np.int64),
                library_size=library_size.astype(np.float32),
                names=names,
            )
            sorter.add(place.rows(runs), rows)
        return sorter.sorted()

    def _blocks(self) -> Iterator[tuple[np.ndarray, Any, np.ndarray, np.ndarray]]:
        """Yield gene positions, values, runs and names, block by block over all inputs."""
        for cells, position in zip(self._inputs, self._positions, strict=True):
            for start, matrix in cells.blocks(already_log1p=self._config.already_log1p):
                stop = start + len(matrix.indptr) - 1
                yield position, matrix, self.conditions.runs_of(cells, start, stop), cells.names(start, stop)
                self._bar.update(stop - start)

    def _training_runs(self) -> np.ndarray:
        config, conditions = self._config, self.conditions
        if config.split is None or config.hvg_from == "all":
            return np.ones(len(conditions.runs), dtype=bool)
        tables = conditions.tables
        parts = config.split.assign_runs(conditions.runs, tables["context"], tables["perturbation"], config.control)
        training = parts == "train"
        if config.n_genes is not None and config.n_genes < len(self._all_genes) and not training.any():
            raise InputError("The split leaves no training cells to select genes on: let some context train")
        return training


def _totals(matrix: Any) -> np.ndarray:
    """Return the sum of each row, float64."""
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1)
