"""Predict effects of perturbations that training has not shown from embeddings, by ridge regression in kernel form."""

import numpy as np

PENALTIES = np.logspace(-3, 3, 13)
"""Ridge penalties that leave-one-out chooses from, in units of the mean squared length of an embedding."""


def effects_from_embeddings(known: np.ndarray, effects: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predict effects that are a linear function of embeddings (ridge regression; Hoerl and Kennard 1970).

    With ``K = X X^T`` and a penalty l the fitted effects are ``H Y`` with ``H = K (K + l)^-1``, and the error of a row
    predicted from the others is ``(Y - H Y)_i / (1 - H_ii)``; the penalty with the smallest squared error of that kind
    is taken. Where the embeddings say nothing it is the largest, and the prediction is close to zero.

    From embeddings [L, E] of perturbations that training has shown, their effects [L, G], on any one scale, and
    embeddings [N, E] of others follow the effects of these [N, G], on the same scale; 0 where fewer than two are known.
    """
    if len(known) < 2:
        return np.zeros((len(new), effects.shape[1]))
    scale = np.square(known).sum(1).mean()
    kernel = known @ known.T / scale
    best, weights = np.inf, np.zeros_like(effects)
    for penalty in PENALTIES:
        inverse = np.linalg.inv(kernel + penalty * np.eye(len(known)))
        fitted = inverse @ effects
        # 1 - H_ii is l times the inverse's diagonal, and Y - H Y is l times `fitted`.
        error = np.square(fitted / np.diag(inverse)[:, None]).sum()
        if error < best:
            best, weights = error, fitted
    return new @ known.T / scale @ weights
