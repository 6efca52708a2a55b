"""Say how perturbations that resemble one another deviate in a context from what they do elsewhere.

The interaction of context k and perturbation p is

    i(k, p) = sum_q w_q (d_q - e_q - c_p) / (sum_q w_q + w_0),    w_q = max(cos(e_p, e_q), 0)^2.

The sum is over the other labels q that k shows and another context has too. ``e_q`` is the effect of q in other
contexts, ``d_q`` its shift in k, and ``c_p`` what the labels of k other than p have in common. ``w_0`` draws the
interaction to 0 where nothing resembles p.

Perturbations of one plate share its batch effects in every context and resemble one another for that. So where the
batches of labels are known and there are enough labels of others, those that share a batch with p are left out.

Axes: L training labels, n labels that a context shows, G genes.
"""

import numpy as np

from bionemo.scale.linear_start.evidence import Shown

NOTHING = 0.3
"""w_0, in neighbours that do the same as p elsewhere."""
LEAST_APART = 8
"""Labels of the same batch are neighbours too where fewer labels than these are of other batches."""


def interactions(shown: Shown, effect_LG: np.ndarray, known: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Return the interaction of a context with every label [L, G]; that of a label it shows is made without itself.

    It follows from the effects of all labels in other contexts, from which labels another context shows, bool [L], and
    from which pairs of labels share no batch, bool [L, L].
    """
    used = known[shown.rows]
    rows = shown.rows[used]
    if shown.common is None or not len(rows):
        return np.zeros_like(effect_LG)
    length = np.linalg.norm(effect_LG, axis=1)
    length[length == 0] = 1.0
    cosine = effect_LG @ effect_LG[rows].T / np.outer(length, length[rows])
    weight = np.square(np.maximum(cosine, 0)) * shown.weight[used].astype(np.float32)  # [L, n]
    weight[rows, np.arange(len(rows))] = 0.0
    allowed = apart[:, rows]
    weight *= allowed | (allowed.sum(axis=1, keepdims=True) < LEAST_APART)
    total = weight.sum(axis=1, keepdims=True)
    deviation = shown.delta[used]
    deviation -= effect_LG[rows]
    found = weight @ deviation
    others = np.ones(len(found), dtype=bool)
    others[shown.rows] = False
    found[others] -= total[others] * shown.common.astype(np.float32)
    found[shown.rows] -= total[shown.rows] * (0.0 if shown.common_of_others is None else shown.common_of_others)
    found /= total + NOTHING
    if shown.common_of_others is None:
        found[shown.rows] = 0.0
    return found


def share_no_batch(batches: list[set[int]]) -> np.ndarray:
    """Return which pairs of labels share no batch, bool [L, L]."""
    numbers = {batch: i for i, batch in enumerate(set().union(*batches))}
    shows = np.zeros((len(batches), len(numbers)), dtype=np.float32)
    for row, own in enumerate(batches):
        shows[row, [numbers[batch] for batch in own]] = 1
    return shows @ shows.T == 0
