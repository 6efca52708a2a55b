"""Let a model predict the cells of populations.

Populations are cut into pieces of one set each; batches of pieces go through the network, which turns each into a task:
what its control cells are moved by, and what the network changes in them. From tasks come sparse cells. With more than
one of torch's threads, the cells of a batch are made while the network answers for the next one.

Shapes: B sets, S cells of a set, G genes, D latent, N cells of a batch without padding, P populations.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from scipy import sparse
from torch.nn.utils.rnn import pad_sequence

from bionemo.scale.config.model import Head
from bionemo.scale.data.condition import Condition, token_table
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.inference.populations import Population
from bionemo.scale.inference.rounding import CellMaker, CountRounding
from bionemo.scale.inference.source_sets import SourceSet, SourceSets
from bionemo.scale.inference.starts import Pools, chance
from bionemo.scale.linear_start.apply import movement
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.screens.errors import InputError

SETS_AT_ONCE = 16
"""So many sets, or as many cells in smaller ones, go through the model together."""


@dataclass(frozen=True)
class Prediction:
    """A `Prediction` is the cells of some populations, in their order."""

    expression: sparse.csr_matrix
    """float32 [cells, G], log1p; on the count grid of its control cell where the model was trained on counts."""
    origin: np.ndarray
    """int [cells], row of the control cell that each started from."""


def joined(predictions: Sequence[Prediction]) -> Prediction:
    """Return the cells of several predictions one after the other."""
    if len(predictions) == 1:
        return predictions[0]  # joining would copy all cells
    expression = sparse.csr_matrix(sparse.vstack([predicted.expression for predicted in predictions]))
    return Prediction(expression, np.concatenate([predicted.origin for predicted in predictions]))


@dataclass(frozen=True)
class _Piece:
    """A `_Piece` is as many cells of a population as the model takes at once."""

    population: int
    """Which, among all."""
    names: tuple[str | None, ...]
    number: int
    """The number counts the source sets of its (context, batch)."""
    cells: int
    is_last: bool


@dataclass(frozen=True)
class _Move:
    """A `_Move` is what happens to all control cells of one population beside what the network says."""

    factor_G: np.ndarray
    """float32; genes are multiplied by it."""
    shift_G: np.ndarray
    """float32; it is added then."""
    rounding: CountRounding | None
    """None where cells are not rounded."""
    condition_D: torch.Tensor
    """The encoded condition."""
    known_KG: torch.Tensor | None
    """What the network is told of genes; None where it is told nothing."""


@dataclass(frozen=True)
class _Answer:
    """An `_Answer` is what the network says of a batch."""

    change_NG: np.ndarray | None
    """float32; None where the network has no share."""
    stages: dict[str, torch.Tensor]
    """What its parts answered, [B, ...] each."""


@dataclass(frozen=True)
class _Task:
    """A `_Task` is a piece whose cells are yet to be made."""

    piece: _Piece
    source: SourceSet
    move: _Move
    change_SG: np.ndarray | None
    """float32; what the network changes."""
    stages: dict[str, torch.Tensor]
    """What the network's parts answered for this set."""


_Made = list[tuple[_Task, sparse.csr_matrix | None]]
"""The cells of some tasks, log1p; None where one is not finite."""


class Generator:
    """A `Generator` predicts populations, each from control cells of its own context.

    What is drawn (control cells, the model's noise, the rounding) depends on the seed, the condition and the control
    cells alone. Which conditions are predicted together may move the last digit of a value before it is rounded.

    The model is in evaluation mode; `cells_per_set` is the size of the sets that it was trained on. `network_share` is
    the share of the network, in [0, 1]; see `ScaleModel.predict`.
    """

    def __init__(self, model: ScaleModel, pools: Pools, *, cells_per_set: int, seed: int, network_share: float):
        self._model, self._pools, self._seed, self._share = model, pools, seed, network_share
        self._sources = SourceSets(model, pools, cells_per_set=cells_per_set, seed=seed)
        self._device = model.gene_mean.device
        self._own, threads = threading.local(), torch.get_num_threads()
        self._maker()  # loads what is compiled, before the first cells are asked for
        self._map = ThreadPoolExecutor(threads, "cells").map if threads > 1 else map

    @torch.inference_mode()
    def predict(
        self, populations: Sequence[Population], report: Callable[[int], object] = lambda cells: None
    ) -> Prediction:
        """Predict populations of perturbations that the model knows, in contexts that have control cells.

        Those of a (context, batch) share what they start from. `report` is told the number of cells as they are
        predicted. An InputError says that the model's output is not finite, or that the control cells cannot be read.
        """
        parts: list[list[sparse.csr_matrix]] = [[] for _ in populations]
        for task, cells in chain.from_iterable(self._made(populations)):
            if cells is None:
                raise _not_finite(populations[task.piece.population], task)
            parts[task.piece.population].append(cells)
            report(task.piece.cells)
        origin = np.concatenate([self._sources.rows(p.place, p.cells) for p in populations])
        self._sources.forget_draws()
        return Prediction(sparse.csr_matrix(sparse.vstack([part for of_one in parts for part in of_one])), origin)

    def _made(self, populations: Sequence[Population]) -> Iterator[_Made]:
        """Yield the cells of all tasks, those of a batch once the network has answered for the next."""
        moves: dict[int, _Move] = {}
        made: Iterable[_Made] = ()
        for batch in _batches(populations, self._sources.cells_per_set):
            new = list(dict.fromkeys(piece.population for piece in batch if piece.population not in moves))
            moves |= dict(zip(new, self._moves([populations[i] for i in new]), strict=True))
            tasks: dict[int, list[_Task]] = {}
            for task in self._tasks(batch, populations, moves):
                tasks.setdefault(task.piece.population, []).append(task)
            yield from made
            made = self._map(self._make, tasks.values())
            for i, of_one in tasks.items():
                if of_one[-1].piece.is_last:
                    del moves[i]
        yield from made

    def _maker(self) -> CellMaker:
        """Return what makes cells in this thread."""
        if not hasattr(self._own, "maker"):
            model = self._model
            self._own.maker = CellMaker(len(model.vocabulary.genes), model.expression_decoder.ceiling)
        return self._own.maker

    def _make(self, tasks: list[_Task]) -> _Made:
        """Make the next cells of one population, whose rounding goes on from piece to piece."""
        make = self._maker()
        share = self._share if self._model.scale.head is Head.RESIDUAL else 1.0
        made = []
        for task in tasks:
            move = task.move
            moves = move.factor_G, move.shift_G, task.change_SG, share
            cells = make(task.piece.cells, task.source.expression, *moves, task.source.grid, move.rounding)
            made.append((task, cells))
        return made

    def _tasks(
        self, batch: Sequence[_Piece], populations: Sequence[Population], moves: dict[int, _Move]
    ) -> Iterator[_Task]:
        """Ask the network for its part of a batch, and say of each piece what its cells are made of."""
        sets = [self._sources.get(populations[piece.population].place, piece.number) for piece in batch]
        answer = self._network(batch, sets, [moves[piece.population] for piece in batch])
        first = 0
        for i, (piece, source) in enumerate(zip(batch, sets, strict=True)):
            change_SG = None if answer.change_NG is None else answer.change_NG[first : first + piece.cells]
            first += piece.cells
            stages = {name: values[i] for name, values in answer.stages.items()}
            yield _Task(piece, source, moves[piece.population], change_SG, stages)

    def _moves(self, populations: Sequence[Population]) -> Iterator[_Move]:
        if not populations:
            return
        model, head, start_B2G = self._model, self._model.scale.head, None
        condition = _conditions(populations, model.vocabulary, self._device)
        if model.linear_start is not None:
            means = [self._pools.of_context(p.context).mean_G for p in populations]
            mean_BG = torch.from_numpy(np.stack(means)).float().to(self._device)
            labels = [p.perturbation for p in populations]
            features_BFG = model.linear_start.features(labels, condition.context, mean_BG, model.vocabulary)
            condition = replace(condition, evidence=features_BFG)
            if moved := model.start_share(self._share):
                delta_BG, _ = model.linear_start.shift(features_BFG)
                start_B2G = torch.stack(movement(delta_BG, mean_BG, moved), dim=1).cpu().numpy()
        condition_BD, known_BKG = model.told(condition)
        for i, population in enumerate(populations):
            factor_G = self._sources.scale_G(population.place, population.cells)
            shift_G, rounding = np.zeros_like(factor_G), None
            if start_B2G is not None:
                keep_G, shift_G = start_B2G[i]
                factor_G = factor_G * keep_G
            if head is not Head.RESIDUAL:
                factor_G, shift_G = np.zeros_like(factor_G), np.zeros_like(factor_G)
            if head is not Head.NEGATIVE_BINOMIAL and model.vocabulary.kind == "counts":
                library = self._sources.library(population.place, population.cells)
                rounding = CountRounding(len(factor_G), library, chance(self._seed, "rounding", *population.names))
            known_KG = None if known_BKG is None else known_BKG[i]
            yield _Move(factor_G, shift_G, rounding, condition_BD[i], known_KG)

    def _network(self, batch: Sequence[_Piece], sets: Sequence[SourceSet], moves: Sequence[_Move]) -> _Answer:
        """Return what the network changes in the cells of a batch, or what it answers in their place."""
        model, decoder = self._model, self._model.expression_decoder
        head, sizes = model.scale.head, [piece.cells for piece in batch]
        if head is Head.RESIDUAL and not self._share:
            return _Answer(None, {})
        mask_BS = (torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]).to(self._device)
        encoded = [self._sources.encoded(source, cells) for source, cells in zip(sets, sizes, strict=True)]
        z0_BSD = pad_sequence([z0_SD for z0_SD, _ in encoded], batch_first=True)
        trunk0_ND = torch.cat([trunk_SD for _, trunk_SD in encoded])
        gaussian_BSD = pad_sequence(
            [source.gaussian_SD[:cells] for source, cells in zip(sets, sizes, strict=True)], batch_first=True
        )
        condition_BD = torch.stack([move.condition_D for move in moves])
        full = min(sizes) == max(sizes)
        z1_BSD = model.transported(z0_BSD, mask_BS, condition_BD, gaussian_BSD, full=full)
        z1_ND = z1_BSD.flatten(0, 1) if full else z1_BSD[mask_BS]
        trunk_ND = decoder.trunk(z1_ND[None])[0]
        if decoder.rates is not None:
            change_NG = self._drawn(decoder.rates.logarithms(trunk_ND, model.gene_mean), batch, sets)
        elif head is Head.RESIDUAL:
            change_NG = decoder.project(trunk_ND - trunk0_ND)
            if model.evidence is not None:
                weights_BSK = model.evidence.weights(z0_BSD)
                for change_SG, weights_SK, move in zip(change_NG.split(sizes), weights_BSK, moves, strict=True):
                    assert move.known_KG is not None
                    change_SG.addmm_(weights_SK[: len(change_SG)], move.known_KG)
        else:
            change_NG = decoder.project(trunk_ND) + decoder.gene_bias + model.gene_mean
        stages = {"condition encoder": condition_BD, "cell encoder": z0_BSD, "transport": z1_BSD}
        return _Answer(change_NG.float().cpu().numpy(), stages)

    def _drawn(self, log_NG: torch.Tensor, batch: Sequence[_Piece], sets: Sequence[SourceSet]) -> torch.Tensor:
        """Draw counts from logarithms of rates, log1p [N, G]; a piece that is not finite stays as it is."""
        rates = self._model.expression_decoder.rates
        assert rates is not None
        drawn = []
        for piece, source, log_SG in zip(batch, sets, log_NG.split([piece.cells for piece in batch]), strict=True):
            if log_SG.isfinite().all():
                seed = chance(self._seed, "counts", *piece.names, piece.number).integers(2**62)
                generator = torch.Generator(device=self._device).manual_seed(int(seed))
                library_S = torch.from_numpy(source.grid.library[: piece.cells]).to(self._device)
                x_SG = log_SG.clamp(max=math.log(rates.target_sum)).exp().log1p()
                log_SG = rates.draw(x_SG, library_S, generator)
            drawn.append(log_SG)
        return torch.cat(drawn)


def _batches(populations: Sequence[Population], cells_per_set: int) -> Iterator[list[_Piece]]:
    """Cut populations into sets, and put sets together that share control cells, or are of like size."""
    whole, smaller, first = [], [], {}
    for i, population in enumerate(populations):
        place = first.setdefault(population.place, i)
        full, rest = divmod(population.cells, cells_per_set)
        for number in range(full):
            is_last = not rest and number + 1 == full
            piece = _Piece(i, population.names, number, cells_per_set, is_last)
            whole.append(((place, number, i), piece))
        if rest:
            smaller.append(((-rest, place, i), _Piece(i, population.names, full, rest, True)))
    batch: list[_Piece] = []
    for pieces in (whole, smaller):
        for _, piece in sorted(pieces, key=lambda pair: pair[0]):
            if batch and (len(batch) + 1) * batch[0].cells > SETS_AT_ONCE * cells_per_set:
                yield batch
                batch = []
            batch.append(piece)
    if batch:
        yield batch


def _conditions(populations: Sequence[Population], vocabulary: Vocabulary, device: torch.device) -> Condition:
    """Return the conditions of all populations, without what is known of them."""

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


def _not_finite(population: Population, task: _Task) -> InputError:
    """Return the error for cells that are not finite, which names the first part of the model that answered so."""
    part = next((name for name, values in task.stages.items() if not values.isfinite().all()), "decoder")
    if not (np.isfinite(task.move.factor_G).all() and np.isfinite(task.move.shift_G).all()):
        part = "linear start"
    return InputError(
        f"what the model predicts of perturbation {population.perturbation!r} in context {population.context!r} is not "
        f"finite, from its {part} on: its weights are damaged or its training diverged; take an earlier checkpoint, or "
        f"train again at a lower training.learning_rate."
    )
