"""Predict populations and write them as AnnData."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm import tqdm

from bionemo.scale.data.condition import Condition, token_table
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.controls import ControlCells, read_controls
from bionemo.scale.inference.output import check_target, write_whole
from bionemo.scale.inference.populations import (
    Population,
    batch_notices,
    check_known,
    populations_like,
    populations_of,
    select,
    sources,
)
from bionemo.scale.inference.rounding import CountRounding
from bionemo.scale.inference.starts import Start, draw
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.runs.directory import RunRecord
from bionemo.scale.runs.load import find_checkpoint, load_model
from bionemo.scale.training.cpu import keep_freed_memory
from bionemo.screens import Split
from bionemo.screens.errors import InputError

SETS_AT_ONCE = 16
ORIGIN = "control_cell"


def predict(
    checkpoint: Path,
    controls: Path,
    out: Path,
    *,
    perturbations: Sequence[str] = (),
    like: Path | None = None,
    part: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[str]:
    """Predict populations of perturbed cells and write them to ``out``.

    Parameters
    ----------
    checkpoint
        Directory that ``pretrain`` wrote, whose best checkpoint is taken, or one of its ``checkpoints/step=N``.
    controls
        h5ad file with the control cells to start from.
    out
        h5ad file to write: log1p expression (CSR) on the model's genes; ``obs`` has the columns of ``controls``, each
        row that of the control cell it started from under its predicted perturbation; ``uns["prediction"]`` says what
        produced it, ``uns["training_conditions"]`` every (context, perturbation) that trained the model.
    perturbations
        What to apply. Without ``like``, to every (context, batch) of the control cells; with it, a selection of its
        conditions.
    like
        h5ad file of observed cells, to predict as many of each (context, perturbation, batch).
    part
        Which conditions of ``like``: ``test``, ``val``, ``train`` (as the training run's split had them) or ``all``;
        ``test`` if not given.
    layer
        Layer of ``controls`` to read; ``X`` if not given.
    seed
        Of the choice of control cells, the model's noise and the rounding; not negative.
    progress
        Whether to show a bar.

    Returns
    -------
    list of str
        Notices: what was done that the user may not expect.

    Raises
    ------
    InputError
        The arguments do not fit each other, ``out`` cannot be written, or what :func:`read_controls`,
        :func:`load_model` and :mod:`bionemo.scale.inference.populations` refuse.
    """
    check_target(out, {"--controls": controls, "--like": like})
    if seed < 0:
        raise InputError(f"--seed {seed} is negative: give 0 or more.")
    if like is None and part is not None:
        raise InputError(f"--part {part} chooses among the conditions of --like, which was not given: give both.")
    part = part or "test"
    run, chosen = find_checkpoint(checkpoint)
    record = run.read()
    vocabulary, keys = record.model_vocabulary(), record.store["keys"]
    cells = read_controls(
        controls,
        vocabulary,
        perturbation_key=keys["perturbation"],
        context_key=keys["context"],
        batch_key=keys["batch"],
        layer=layer,
    )
    if ORIGIN in cells.obs:
        raise InputError(
            f"{controls} has an obs column {ORIGIN!r}, where predictions name the cell each started from: rename it."
        )
    if like is not None:
        wanted = populations_like(like, keys, vocabulary, Split.from_dict(record.split), part)
        if perturbations:
            wanted = select(wanted, perturbations, like, part)
    else:
        wanted = populations_of(perturbations, cells, keys)
    if not wanted:
        raise InputError("nothing to predict: name --perturbations, or give an observed file with --like.")
    check_known(wanted, vocabulary)
    rng = np.random.default_rng(seed)
    starts = [draw(p, sources(p, cells.obs, keys, controls), rng) for p in wanted]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    model, step = load_model(run, device, chosen)
    control_means = _means_by_context(cells, keys["context"])
    conditions = _conditions(wanted, vocabulary, device)
    with torch.no_grad():
        encoded, _ = model.condition_encoder(conditions)
    predicted = []
    size = record.training["cells_per_set"]
    pieces = _pieces(starts, cells, vocabulary, size, seed)
    with tqdm(total=sum(-(-p.cells // size) for p in wanted), desc="predict", unit="set", disable=not progress) as bar:
        while batch := list(islice(pieces, SETS_AT_ONCE)):
            predicted += _predict_batch(
                model, vocabulary, cells, control_means, conditions, encoded, batch, device, rng
            )
            bar.update(len(batch))

    taken = np.concatenate([start.rows for start in starts])
    obs = cells.obs.iloc[taken].copy()
    counts = [p.cells for p in wanted]
    obs[keys["perturbation"]] = pd.Categorical(np.repeat([p.perturbation for p in wanted], counts))
    if keys["batch"] and like is not None:
        obs[keys["batch"]] = pd.Categorical(np.repeat([str(p.batch) for p in wanted], counts))
    obs[ORIGIN] = obs.index.to_numpy()
    obs.index = pd.Index([f"predicted_{i}" for i in range(len(obs))])
    result = ad.AnnData(
        sparse.csr_matrix(sparse.vstack(predicted)), obs=obs, var=pd.DataFrame(index=pd.Index(vocabulary.genes))
    )
    result.uns["prediction"] = {
        "tool": f"bionemo-scale {version('bionemo-scale')}",
        "checkpoint": str(checkpoint),
        "step": step,
        "perturbation_key": keys["perturbation"],
        "context_key": keys["context"],
        "batch_key": keys["batch"] or "",
        "control": vocabulary.control,
        "target_sum": vocabulary.target_sum,
        "input_kind": vocabulary.kind,
        "layer": layer or "",
        "controls": str(controls),
        "part": part if like is not None else "",
        "seed": seed,
        **_training_facts(record),
    }
    if record.trained is not None:
        result.uns["training_conditions"] = _condition_table(record.trained)
    write_whole(result, out)
    return [*cells.notices, *batch_notices(wanted, cells.obs, keys, controls), *_token_notices(wanted, vocabulary)]


def _training_facts(record: RunRecord) -> dict[str, str]:
    """What the split and the genes were, for an evaluation that asks; an empty string where the run did not say."""
    genes = record.store.get("genes") or {}
    return {
        "split_hash": Split.from_dict(record.split).hash,
        "hvg_from": genes.get("hvg_from") or "",
        "hvg_split": genes.get("hvg_split") or "",
    }


def _condition_table(trained: dict[str, list[str]]) -> pd.DataFrame:
    """One row per (context, perturbation); categories keep it small in the file."""
    pairs = [(context, label) for context, labels in trained.items() for label in labels]
    table = pd.DataFrame(pairs, columns=pd.Index(["context", "perturbation"]), dtype="category")
    table.index = table.index.astype(str)
    return table


@dataclass(frozen=True)
class _Piece:
    """As many cells of a population as the model takes at once."""

    population: Population
    number: int
    """Of the population among all."""
    rows: np.ndarray
    scale: np.ndarray
    """What each gene of the cells to start from is multiplied by, [G]."""
    rounding: CountRounding
    """Of the whole population."""
    key: int
    """Of the model's noise."""


def _pieces(
    starts: Sequence[Start], cells: ControlCells, vocabulary: Vocabulary, cells_per_set: int, seed: int
) -> Iterator[_Piece]:
    """Populations cut into sets of the size the model was trained on."""
    keys, rounding = (np.random.default_rng([seed, part]) for part in (1, 2))
    for number, start in enumerate(starts):
        scale = start.scale(cells.expression)
        library = cells.library[start.rows]
        of_population = CountRounding(len(vocabulary.genes), library, vocabulary.target_sum, rounding)
        for first in range(0, len(start.rows), cells_per_set):
            rows = start.rows[first : first + cells_per_set]
            yield _Piece(start.population, number, rows, scale, of_population, int(keys.integers(2**62)))


def _conditions(populations: Sequence[Population], vocabulary: Vocabulary, device: torch.device) -> Condition:
    """What the populations are of, without any linear start."""
    tokens, doses = token_table([p.perturbation for p in populations], vocabulary)
    return Condition(
        perturbation=tokens.to(device),
        dose=doses.to(device),
        context=_table_rows([p.context for p in populations], vocabulary.contexts, device),
        batch=_table_rows([p.batch for p in populations], vocabulary.batches, device),
    )


@torch.inference_mode()
def _predict_batch(
    model: ScaleModel,
    vocabulary: Vocabulary,
    cells: ControlCells,
    control_means: Mapping[str, torch.Tensor],
    conditions: Condition,
    encoded: torch.Tensor,
    batch: Sequence[_Piece],
    device: torch.device,
    rng: np.random.Generator,
) -> list[sparse.csr_matrix]:
    """Predicted expression of each piece, CSR log1p [cells, G]."""
    size = max(len(piece.rows) for piece in batch)
    control = torch.zeros(len(batch), size, len(vocabulary.genes))
    mask = torch.zeros(len(batch), size, dtype=torch.bool)
    for i, piece in enumerate(batch):
        dense = cells.expression[piece.rows].toarray()
        torch.mul(torch.from_numpy(dense), torch.from_numpy(piece.scale), out=control[i, : len(piece.rows)])
        mask[i, : len(piece.rows)] = True
    which = torch.tensor([piece.number for piece in batch], device=device)
    condition = Condition(**{name: value[which] for name, value in vars(conditions).items() if value is not None})
    if model.linear_start is not None:
        middle = torch.stack([control_means[piece.population.context] for piece in batch]).to(device)
        labels = [piece.population.perturbation for piece in batch]
        delta = model.linear_start.delta(labels, condition.context, middle, vocabulary)
        condition = replace(condition, delta=delta, control_mean=middle)
    noise_keys = torch.tensor([piece.key for piece in batch])
    predicted = model.predict(control.to(device), mask.to(device), condition, noise_keys, condition_BD=encoded[which])
    rates = model.expression_decoder.rates
    if rates is not None:
        library = torch.zeros(mask.shape)
        for i, piece in enumerate(batch):
            library[i, : len(piece.rows)] = torch.from_numpy(cells.library[piece.rows])
        generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**62)))
        predicted = rates.draw(predicted, library.to(device), generator)
    answer = predicted.float().cpu().numpy()
    pieces = []
    for i, piece in enumerate(batch):
        expression = answer[i, : len(piece.rows)]
        if vocabulary.kind == "counts" and rates is None:
            pieces.append(piece.rounding(expression, cells.library[piece.rows]))
        else:
            pieces.append(sparse.csr_matrix(expression))
    return pieces


def _means_by_context(cells: ControlCells, key: str) -> dict[str, torch.Tensor]:
    """Mean log1p of the control cells of every context, [G] each."""
    contexts = cells.obs[key].astype(str).to_numpy()
    return {
        context: torch.from_numpy(np.asarray(cells.expression[contexts == context].mean(0)).ravel()).float()
        for context in np.unique(contexts)
    }


def _table_rows(names: Sequence[str | None], table: tuple[str, ...], device: torch.device) -> torch.Tensor:
    position = {name: row for row, name in enumerate(table)}
    return torch.tensor([position.get(name, -1) for name in names], device=device)  # type: ignore[arg-type]


def _token_notices(populations: Sequence[Population], vocabulary: Vocabulary) -> list[str]:
    unknown = sorted({p.context for p in populations} - set(vocabulary.contexts))
    if not unknown:
        return []
    return [
        f"no perturbed cell of {', '.join(unknown[:5])} was seen in training: the model knows "
        f"{'it' if len(unknown) == 1 else 'them'} by the control cells alone."
    ]
