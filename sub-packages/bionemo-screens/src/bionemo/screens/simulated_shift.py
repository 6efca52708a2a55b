"""Integrate the expected shift of every simulated condition: what a perfect prediction of a mean would say.

A shift is the expected log1p of counts scaled to 10,000 of perturbed cells, less that of control cells of the same
state. For a cell of rate ``r`` and gamma noise ``v`` of mean 1, the count of a gene is Poisson of mean ``r v``; with
the library ``T = sum r v`` (its Poisson noise is left out),

    E log1p(1e4 c / T | r, v) = sum_c Poisson(c; r v) log1p(1e4 c / T)

comes from a table over (log rate, log 1e4 / T). What is left, the library, phase and state of a cell and its noise gene
by gene, is averaged over a Latin hypercube (McKay et al. 1979), the same one for control and perturbed cells.
"""

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.special import gammaincinv, gammaln, ndtri, xlogy

from bionemo.screens.simulated_truth import COUNTS_PER_GENE, SimulationSize, Truth, softmax

TARGET_SUM = 1e4
LIBRARY_SPREAD = 0.35  # standard deviation of the natural logarithm of a cell's library

_RATES = np.linspace(np.log(1e-7), np.log(1e6), 2048)
_MOST_COUNTED = 200.0  # mean count above which log1p is expanded to second order
_VALUES = 4e7  # values to integrate over in all, where the points of a condition are not too few or too many
_POINTS = (16, 128)


def expected_shifts(size: SimulationSize, truth: Truth, rng: np.random.Generator) -> np.ndarray:
    """Return the expected shift of each condition and subpopulation, log1p, float32 [K, P, U, G]."""
    (n_contexts, n_states), n_labels = truth.share.shape, len(truth.treatments.names)
    shifts = np.zeros((n_contexts, n_labels, n_states, size.genes), dtype=np.float32)
    points = int(np.clip(_VALUES / (shifts.size + shifts[:, 0].size), *_POINTS))
    middle = (np.arange(points) + 0.5) / points
    shape = 1 / truth.dispersion
    noise = gammaincinv(shape, middle[:, None])
    noise /= noise.mean(axis=0)
    for context in range(n_contexts):
        for subpopulation in range(n_states):
            library, state, phase = (rng.permutation(middle) for _ in range(3))
            batch = np.arange(points) % size.batches
            rate = rates(
                truth,
                np.full(points, context),
                np.full(points, subpopulation),
                batch,
                phase=2 * np.pi * phase,
                state=ndtri(state),
                library=COUNTS_PER_GENE * size.genes * np.exp(LIBRARY_SPREAD * ndtri(library)),
            ) * rng.permuted(noise, axis=0)
            table = _Table(rate.sum(axis=1))
            control = table(rate)
            labels = np.arange(n_labels)
            effect = truth.effect(np.full(n_labels, context), np.full(n_labels, subpopulation), labels)
            for label in np.flatnonzero(effect.any(axis=1)):
                shifts[context, label, subpopulation] = table(rate * np.exp(effect[label])) - control
    return shifts


def rates(
    truth: Truth,
    context: np.ndarray,
    subpopulation: np.ndarray,
    batch: np.ndarray,
    *,
    phase: np.ndarray,
    state: np.ndarray,
    library: np.ndarray,
) -> np.ndarray:
    """Return the expected counts of n unperturbed cells [n, G]; every argument has n values."""
    logits = truth.baseline[context, subpopulation] + truth.batch[batch] + state[:, None] * truth.state[context]
    logits += np.stack([np.cos(phase), np.sin(phase)], axis=1) @ truth.cycle
    return library[:, None] * softmax(logits)


class _Table:
    """A `_Table` answers the mean over cells of E log1p(1e4 c / T), for Poisson counts c.

    Its second axis spans the libraries of control cells, with room for what a perturbation makes of them.
    """

    def __init__(self, library: np.ndarray):
        self._scales = np.linspace(
            np.log(TARGET_SUM / library.max()) - 1.5, np.log(TARGET_SUM / library.min()) + 1.5, 65
        )
        mean, scale = np.exp(_RATES), np.exp(self._scales)
        few = mean <= _MOST_COUNTED
        counts = np.arange(int(_MOST_COUNTED + 10 * np.sqrt(_MOST_COUNTED)))
        scaled = np.outer(mean, scale)
        self._values = np.log1p(scaled) - 0.5 * scaled * scale / np.square(1 + scaled)
        self._values[few] = _poisson(counts, mean[few, None]) @ np.log1p(np.outer(counts, scale))

    def __call__(self, rate: np.ndarray) -> np.ndarray:
        """Return the mean over cells [G], of expected counts [cells, G]."""
        scale = np.log(TARGET_SUM / rate.sum(axis=1, keepdims=True))
        where = [
            (np.log(np.maximum(rate, 1e-7)) - _RATES[0]) / (_RATES[1] - _RATES[0]),
            np.broadcast_to((scale - self._scales[0]) / (self._scales[1] - self._scales[0]), rate.shape),
        ]
        return map_coordinates(self._values, where, order=1, mode="nearest").mean(axis=0)


def _poisson(count: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return Poisson probabilities; scipy.stats has them too, and takes a second to import."""
    return np.exp(xlogy(count, mean) - mean - gammaln(count + 1))
