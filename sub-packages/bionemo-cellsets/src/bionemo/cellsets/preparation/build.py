"""Make a store in two readings of the cells: the first checks and counts, the second brings rows to their place."""

import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bionemo.cellsets.inputs import csr_kernels
from bionemo.cellsets.inputs.cell_input import CellInput
from bionemo.cellsets.inputs.matrices import Rows
from bionemo.cellsets.inputs.pieces import Piece, Workers, cut_in_pieces
from bionemo.cellsets.preparation.first_pass import Survey
from bionemo.cellsets.preparation.genes import GeneStatistics, check_named, join_genes
from bionemo.cellsets.preparation.run_table import Conditions
from bionemo.cellsets.preparation.second_pass import PlaceInRun, SortedPiece, StoredRows, bucket_edges, gathered
from bionemo.cellsets.preparation.workplace import Workplace
from bionemo.cellsets.preparation.writer import StoreWriter, column_type
from bionemo.screens.errors import InputError, name_list
from bionemo.screens.split import Split

SHUFFLE_SEED = 0
"""Cells are permuted inside their run by this seed, so equal inputs make equal stores."""
HVG_SOURCES = ("train", "all")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A `BuildConfig` says what to make of the cells; its fields are parameters of `prepare`, read and checked."""

    keys: Mapping[str, str | None]
    control: str
    genes: str
    n_genes: int | None
    hvg_from: str
    target_sum: float
    split: Split | None
    already_log1p: bool
    gene_names: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.n_genes is not None and self.n_genes < 1:
            raise InputError(f"n_genes is {self.n_genes}: it must be at least 1")
        if not (np.isfinite(self.target_sum) and self.target_sum > 0):
            raise InputError(f"target_sum is {self.target_sum}: it must be above 0")
        if self.hvg_from not in HVG_SOURCES:
            raise InputError(f"hvg_from is '{self.hvg_from}': choose one of {', '.join(HVG_SOURCES)}")


def build_store(
    inputs: Sequence[CellInput],
    place: Workplace,
    config: BuildConfig,
    *,
    provenance: Mapping[str, Any],
    threads: int | None,
    progress: bool,
) -> None:
    """Write a store of the cells of all inputs, going on with what was done before.

    `provenance` has the entries of the manifest that say where the cells come from. What is written does not depend on
    the number of threads. An InputError says what about the input is wrong.
    """
    workers, n_cells = Workers(threads), sum(cells.n_cells for cells in inputs)
    with tqdm(total=3 * n_cells, desc="prepare", unit="cell", unit_scale=True, disable=not progress) as bar:
        for cells in inputs:
            cells.check_genes()
        all_genes, positions = join_genes(inputs, config.genes)
        if config.gene_names is not None:
            check_named(config.gene_names, all_genes)
        bar.set_postfix_str("reading labels")
        conditions = Conditions(inputs, config.keys, config.control, place.scratch / "conditions")
        training = _training_runs(config, conditions, len(all_genes))
        pieces = cut_in_pieces(inputs)

        bar.set_postfix_str("checking values")
        survey = Survey(place.scratch, inputs, positions, len(all_genes), conditions)
        bar.update(sum(piece.n_cells for piece in pieces[: survey.n_read]))
        scaled_to = None if config.already_log1p else config.target_sum
        for piece in survey.read(pieces, workers, training=training, target_sum=scaled_to):
            bar.update(piece.n_cells)
        if not survey.statistics.values.any():
            raise _only_zeros(inputs)
        genes = _choose_genes(config, survey.statistics, all_genes)
        if not survey.statistics.values[genes.chosen].any():
            raise _only_zeros(inputs)

        bar.set_postfix_str("sorting by condition")
        sorter = _Sorter(survey, genes, already_log1p=config.already_log1p)
        for piece in sorter.sort(pieces, workers):
            bar.update(piece.n_cells)

        bar.set_postfix_str("writing")
        tables = {"genes": genes.names.tolist()} | {
            f"{kind}{'es' if kind == 'batch' else 's'}": conditions.tables[kind].tolist() for kind in conditions.tables
        }
        writer = StoreWriter(place.store, conditions.runs, tables, genes.value_type)
        writer.write(_counted(sorter.in_order(pieces, workers), bar), workers.threads)
        writer.finish(
            {
                "kind": "log1p" if config.already_log1p else "counts",
                "control": config.control,
                "keys": dict(config.keys),
                "target_sum": config.target_sum,
                **provenance,
                "gene_selection": genes.selection,
                "shuffle_seed": SHUFFLE_SEED,
            }
        )
    shutil.rmtree(place.scratch)


@dataclass(frozen=True, kw_only=True)
class _Genes:
    """A `_Genes` has the genes of a store: their places among all, their names, how they were chosen, their type."""

    chosen: np.ndarray
    names: np.ndarray
    of: int
    selection: Mapping[str, Any]
    value_type: np.dtype
    share: float

    def position(self, in_all: np.ndarray) -> np.ndarray:
        """Return for the columns of an input, given by their gene among all, their gene in the store, or -1."""
        kept = np.full(self.of + 1, -1, dtype=np.int64)
        kept[self.chosen] = np.arange(len(self.chosen))
        return kept[in_all]


def _choose_genes(config: BuildConfig, statistics: GeneStatistics, all_genes: np.ndarray) -> _Genes:
    of = len(all_genes)
    chosen, source, split_hash = np.arange(of), "all genes of the input", None
    if config.gene_names is not None:
        chosen = pd.Index(all_genes).get_indexer(pd.Index(config.gene_names))
        source = f"{len(chosen)} genes given by name"
    elif config.n_genes is not None and config.n_genes < of:
        chosen, on = statistics.most_variable(config.n_genes), "all cells"
        if config.split is not None and config.hvg_from == "train":
            on, split_hash = "the split's training cells", config.split.hash
        source = f"{config.n_genes} highly variable genes (Seurat dispersion) on {on}"
    largest = statistics.largest[chosen].max()
    integer = next(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(t).max)
    return _Genes(
        chosen=chosen,
        names=all_genes[chosen],
        of=of,
        selection={"of": of, "source": source, "joined": config.genes, "split_hash": split_hash}
        | ({"given": True} if config.gene_names is not None else {}),
        value_type=np.dtype(np.float32) if config.already_log1p else integer,
        share=float(statistics.values[chosen].sum() / statistics.values.sum()),
    )


class _Sorter:
    """A `_Sorter` does the second reading: it writes files of rows sorted by place, and merges them in order."""

    def __init__(self, survey: Survey, genes: _Genes, *, already_log1p: bool):
        self._survey, self._log1p, runs = survey, already_log1p, survey.conditions.runs
        self._positions = [genes.position(position) for position in survey.positions]
        self._place = PlaceInRun(runs, SHUFFLE_SEED)
        self._types = (genes.value_type, column_type(len(genes.names)))
        value_bytes = sum(dtype.itemsize for dtype in self._types)
        self._edges = bucket_edges(runs["length"], survey.run_values * genes.share, value_bytes)

    def sort(self, pieces: Sequence[Piece], workers: Workers) -> Iterator[Piece]:
        """Write the file of each piece that has none yet, and yield the pieces."""
        # Waiting for the disk is no work for those who sort.
        with ThreadPoolExecutor(1) as disk:
            flushing: deque[Future[None]] = deque()
            for (piece, _), _ in workers.map(self._sort_piece, ((piece, self._places(piece)) for piece in pieces)):
                if not self._file(piece).is_file():
                    flushing.append(disk.submit(SortedPiece.finish, self._file(piece)))
                if len(flushing) > 2 * workers.threads:
                    flushing.popleft().result()
                yield piece
            for future in flushing:
                future.result()

    def in_order(self, pieces: Sequence[Piece], workers: Workers) -> Iterator[StoredRows]:
        """Yield all rows of the store in order."""
        files = [SortedPiece(self._file(piece), *self._types) for piece in pieces]
        buckets = zip(range(len(self._edges) - 1), self._edges[:-1].tolist(), self._edges[1:].tolist(), strict=True)
        for _, rows in workers.map(lambda bucket: gathered(files, *bucket), buckets):
            yield rows

    def _places(self, piece: Piece) -> np.ndarray:
        return self._place.rows(self._survey.conditions.runs_of(piece.first_cell, piece.first_cell + piece.n_cells))

    def _sort_piece(self, piece_and_places: tuple[Piece, np.ndarray]) -> None:
        piece, places = piece_and_places
        if self._file(piece).is_file():
            return
        names = self._survey.names(piece)
        blocks = self._survey.inputs[piece.source].blocks(piece.start, piece.stop, already_log1p=self._log1p)
        rows = [self._stored(block, self._positions[piece.source], names[block.start - piece.start :])
                for block in blocks]  # fmt: skip
        SortedPiece.write(self._file(piece), self._edges, places, rows)

    def _stored(self, rows: Rows, position: np.ndarray, names: np.ndarray) -> StoredRows:
        out = [np.empty(len(rows.values), dtype=dtype) for dtype in self._types]
        count, lengths, totals = csr_kernels.pick(rows[1:], position, *out)
        return StoredRows(
            values=out[0][:count],
            columns=out[1][:count],
            lengths=lengths,
            library_size=np.full(len(totals), np.nan, np.float32) if self._log1p else totals.astype(np.float32),
            names=names[: len(lengths)],
        )

    def _file(self, piece: Piece) -> Path:
        return self._survey.folder / f"rows-{piece.number}"


def _counted(blocks: Iterator[StoredRows], bar: tqdm) -> Iterator[StoredRows]:
    for rows in blocks:
        yield rows
        bar.update(len(rows.lengths))


def _only_zeros(inputs: Sequence[CellInput]) -> InputError:
    return InputError(
        f"{name_list(cells.path.name for cells in inputs)} holds zeros only: choose another layer with --layer"
    )


def _training_runs(config: BuildConfig, conditions: Conditions, n_genes: int) -> np.ndarray:
    if config.split is None or config.hvg_from == "all":
        return np.ones(len(conditions.runs), dtype=bool)
    tables = conditions.tables
    contexts, perturbations = (tables[kind][conditions.runs[kind]] for kind in ("context", "perturbation"))
    training = config.split.parts(contexts, perturbations, config.control) == "train"
    if config.n_genes is not None and config.n_genes < n_genes and not training.any():
        raise InputError("The split leaves no training cells to select genes on: let some context train")
    return training
