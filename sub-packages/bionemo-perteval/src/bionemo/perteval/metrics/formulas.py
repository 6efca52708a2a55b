"""Compute the metrics that cell-eval does not have, or not with ties averaged: arrays in, one value a shift out."""

from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

ROUNDING = 1e-6
"""A shift whose values all lie within this is constant: what is left is the rounding of single precision."""

Distance = Literal["l1", "l2", "cosine"]


def correlations(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation over genes of two sets of shifts, log1p [P, G]; [P], NaN where one is constant."""
    centred = [values - values.mean(axis=1, keepdims=True) for values in (predicted, observed)]
    flat = constant(predicted) | constant(observed)
    lengths = np.linalg.norm(centred[0], axis=1) * np.linalg.norm(centred[1], axis=1)
    products = (centred[0] * centred[1]).sum(axis=1)
    return np.divide(products, lengths, out=np.full(lengths.shape, np.nan), where=~flat)


def covariances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the covariance over genes of two sets of shifts [P, G], mean over the genes [P]."""
    centred = [values - values.mean(axis=1, keepdims=True) for values in (first, second)]
    return (centred[0] * centred[1]).mean(axis=1)


def constant(shifts: np.ndarray) -> np.ndarray:
    """Say for each shift [P, G] whether it is the same in all genes up to rounding, or unknown (NaN) [P]."""
    return ~(np.ptp(shifts, axis=1) > ROUNDING)


def weighted_errors(predicted: np.ndarray, observed: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the mean squared error of mean cells, log1p [P, G], with genes weighted by how DE they are.

    ``sum_g w_g (predicted_g - observed_g)^2`` with ``w = s^2 / sum(s^2)`` and s the absolute z scaled to 0 to 1 over
    the genes: the weighted MSE of Mejia et al. 2025 (arXiv 2506.22641), here with the standardised Mann-Whitney
    statistics z [P, G] of the observed cells against the control cells. [P]; NaN where all genes have the same
    statistic.
    """
    score = np.abs(z)
    lowest, highest = score.min(axis=1, keepdims=True), score.max(axis=1, keepdims=True)
    scaled = np.divide(score - lowest, highest - lowest, out=np.zeros_like(score), where=highest > lowest) ** 2
    total = scaled.sum(axis=1)
    errors = (scaled * (predicted - observed) ** 2).sum(axis=1)
    return np.divide(errors, total, out=np.full(total.shape, np.nan), where=total > 0)


def discrimination(predicted: np.ndarray, observed: np.ndarray, own_gene: np.ndarray, distance: Distance) -> np.ndarray:
    """Return for each predicted shift where its own perturbation ranks among the observed ones, from above 0 to 1 [P].

    ``1 - rank / P``: rank is the number of observed shifts that are nearer than the true one, plus half of the others
    that are equally near. cell-eval's discrimination score, which breaks ties by order instead.

    Parameters
    ----------
    predicted, observed
        Shifts of the same perturbations, log1p [P, G].
    own_gene
        Column of the gene that each perturbation is named after, left out of its distances; -1 for none [P].
    distance
        Between shifts. The cosine distance from a shift that is zero is 1.
    """
    distances = _distances(predicted, observed, own_gene, distance)
    true = np.diagonal(distances)[:, None]
    equal = np.isclose(distances, true, rtol=1e-9, atol=1e-12)
    nearer = ((distances < true) & ~equal).sum(axis=1)
    return 1 - (nearer + (equal.sum(axis=1) - 1) / 2) / len(predicted)


def _distances(predicted: np.ndarray, observed: np.ndarray, own_gene: np.ndarray, distance: Distance) -> np.ndarray:
    """Return the distances of predicted (rows) to observed (columns) shifts without the row's own gene [P, P]."""
    has_own = (own_gene >= 0)[:, None]
    column = np.maximum(own_gene, 0)
    left = np.where(has_own, np.take_along_axis(predicted, column[:, None], axis=1), 0.0)
    right = np.where(has_own, observed[:, column].T, 0.0)
    if distance == "l1":
        return cdist(predicted, observed, "cityblock") - np.abs(left - right)
    if distance == "l2":
        return np.sqrt(np.maximum(cdist(predicted, observed, "sqeuclidean") - (left - right) ** 2, 0.0))
    products = predicted @ observed.T - left * right
    own = np.maximum((predicted**2).sum(axis=1)[:, None] - left**2, 0.0)
    others = np.maximum((observed**2).sum(axis=1)[None, :] - right**2, 0.0)
    lengths = np.sqrt(own * others)
    zero = np.abs(predicted).max(axis=1)[:, None] <= ROUNDING
    return 1 - np.divide(products, lengths, out=np.zeros_like(products), where=(lengths > 0) & ~zero)
