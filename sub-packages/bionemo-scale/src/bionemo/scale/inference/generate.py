"""Let a model predict the cells of populations.

Shapes: B sets, S cells of a set, G genes, D latent, N conditions of a prediction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from scipy import sparse
from tqdm import tqdm

from bionemo.scale.data.condition import Condition, token_table
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.controls import ControlCells
from bionemo.scale.inference.populations import Population
from bionemo.scale.inference.rounding import CountRounding
from bionemo.scale.inference.starts import Pools, Start, draw
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.screens.errors import InputError

SETS_AT_ONCE = 16


@dataclass(frozen=True)
class Prediction:
    """A `Prediction` is the cells of some populations, in their order."""

    expression: sparse.csr_matrix
    """float32 [cells, G], log1p; on the count grid of its control cell where the model was trained on counts."""
    origin: np.ndarray
    """int [cells], row of the control cell that each started from."""


def generate(
    model: ScaleModel,
    pools: Pools,
    populations: Sequence[Population],
    *,
    cells_per_set: int,
    seed: int,
    progress: bool,
) -> Prediction:
    """Predict populations, each from control cells of its own context.

    Parameters
    ----------
    model
        In evaluation mode.
    pools
        The control cells.
    populations
        Of perturbations that the model knows, in contexts that have control cells.
    cells_per_set
        The size of the sets that the model was trained on.
    seed
        Of the choice of control cells, the model's noise and the rounding.
    progress
        Whether to show a bar.

    Raises
    ------
    InputError
        A context has no control cells, or the model's output is not finite.
    """
    rng = np.random.default_rng(seed)
    starts = [draw(population, pools.of(population), rng) for population in populations]
    generator = _Generator(model, pools, populations, rng)
    pieces, parts = _pieces(starts, pools.cells, model.vocabulary, cells_per_set, seed), []
    total = sum(-(-population.cells // cells_per_set) for population in populations)
    with tqdm(total=total, desc="predict", unit="set", disable=not progress) as bar:
        while batch := list(islice(pieces, SETS_AT_ONCE)):
            parts += generator.predict(batch)
            bar.update(len(batch))
    expression = sparse.csr_matrix(sparse.vstack(parts))
    return Prediction(expression, np.concatenate([start.rows for start in starts]))


@dataclass(frozen=True)
class _Piece:
    """A `_Piece` is as many cells of a population as the model takes at once."""

    population: Population
    number: int
    """The population's place among all."""
    rows: np.ndarray
    """int [S], the control cells."""
    scale_G: np.ndarray
    """What each gene of the control cells is multiplied by."""
    rounding: CountRounding
    """It belongs to the whole population."""
    key: int
    """The model's noise is drawn from it."""


def _pieces(
    starts: Sequence[Start], cells: ControlCells, vocabulary: Vocabulary, cells_per_set: int, seed: int
) -> Iterator[_Piece]:
    """Cut populations into sets of the size that the model was trained on."""
    keys, chance = (np.random.default_rng([seed, part]) for part in (1, 2))
    for number, start in enumerate(starts):
        scale_G, library = start.scale_G(), cells.library[start.rows]
        rounding = CountRounding(len(vocabulary.genes), library, vocabulary.target_sum, chance)
        for first in range(0, len(start.rows), cells_per_set):
            rows = start.rows[first : first + cells_per_set]
            yield _Piece(start.population, number, rows, scale_G, rounding, int(keys.integers(2**62)))


class _Generator:
    """A `_Generator` holds what all batches of one prediction share."""

    def __init__(self, model: ScaleModel, pools: Pools, populations: Sequence[Population], rng: np.random.Generator):
        self.model, self.cells, self.rng = model, pools.cells, rng
        self.device = model.gene_mean.device
        self.conditions = _conditions(populations, model.vocabulary, self.device)
        with torch.no_grad():
            self.condition_ND, _ = model.condition_encoder(self.conditions)
        contexts = {population.context for population in populations}
        self.control_mean = {c: torch.from_numpy(pools.of_context(c).mean_G).float() for c in contexts}

    @torch.inference_mode()
    def predict(self, batch: Sequence[_Piece]) -> list[sparse.csr_matrix]:
        """Return the expression of each piece, CSR log1p [S, G]."""
        model, vocabulary = self.model, self.model.vocabulary
        shape = len(batch), max(len(piece.rows) for piece in batch)
        x0_BSG, library_BS = torch.zeros(*shape, len(vocabulary.genes)), torch.zeros(shape)
        mask_BS = torch.zeros(shape, dtype=torch.bool)
        for i, piece in enumerate(batch):
            size, x_SG = len(piece.rows), torch.from_numpy(self.cells.expression[piece.rows].toarray())  # type: ignore[index]
            torch.mul(x_SG, torch.from_numpy(piece.scale_G), out=x0_BSG[i, :size])
            library_BS[i, :size] = torch.from_numpy(self.cells.library[piece.rows])
            mask_BS[i, :size] = True
        which_B = torch.tensor([piece.number for piece in batch], device=self.device)
        condition = self._condition(batch, which_B)
        keys_B = torch.tensor([piece.key for piece in batch])
        x0_BSG, mask_BS = x0_BSG.to(self.device), mask_BS.to(self.device)
        x1_BSG = model.predict(x0_BSG, mask_BS, condition, keys_B, condition_BD=self.condition_ND[which_B])
        rates = model.expression_decoder.rates
        if rates is not None:
            generator = torch.Generator(device=self.device).manual_seed(int(self.rng.integers(2**62)))
            x1_BSG = rates.draw(x1_BSG, library_BS.to(self.device), generator)
        found, answers = x1_BSG.float().cpu().numpy(), []
        for i, piece in enumerate(batch):
            x_SG = found[i, : len(piece.rows)]
            if not np.isfinite(x_SG).all():
                raise InputError(
                    f"what the model predicts of perturbation {piece.population.perturbation!r} in context "
                    f"{piece.population.context!r} is not finite: its weights are damaged or its training diverged; "
                    f"take an earlier checkpoint, or train again at a lower training.learning_rate."
                )
            rounded = vocabulary.kind == "counts" and rates is None
            answers.append(piece.rounding(x_SG, self.cells.library[piece.rows]) if rounded else sparse.csr_matrix(x_SG))
        return answers

    def _condition(self, batch: Sequence[_Piece], which_B: torch.Tensor) -> Condition:
        model, rows = self.model, vars(self.conditions).items()
        condition = Condition(**{name: value[which_B] for name, value in rows if value is not None})
        if model.linear_start is None:
            return condition
        mean_BG = torch.stack([self.control_mean[piece.population.context] for piece in batch]).to(self.device)
        labels = [piece.population.perturbation for piece in batch]
        delta_BG = model.linear_start.delta(labels, condition.context, mean_BG, model.vocabulary)
        return replace(condition, delta=delta_BG, control_mean=mean_BG)


def _conditions(populations: Sequence[Population], vocabulary: Vocabulary, device: torch.device) -> Condition:
    """Return the conditions of all populations, without any linear start."""

    def rows(names: list[str | None], table: tuple[str, ...]) -> torch.Tensor:
        position: dict[str | None, int] = {name: row for row, name in enumerate(table)}
        return torch.tensor([position.get(name, -1) for name in names], device=device)

    tokens, doses = token_table([p.perturbation for p in populations], vocabulary)
    return Condition(
        perturbation=tokens.to(device),
        dose=doses.to(device),
        context=rows([p.context for p in populations], vocabulary.contexts),
        batch=rows([p.batch for p in populations], vocabulary.batches),
    )
