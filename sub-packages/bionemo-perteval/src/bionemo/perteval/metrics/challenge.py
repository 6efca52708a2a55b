"""Put the members of the Virtual Cell Challenge 2026 together to one score, as cell-eval2 does."""

import pandas as pd

MEMBERS = {
    "pds_cosine": "PDS",
    "expr_mse_unbiased_capped_norm": "MSE",
    "de_wilcoxon_direction_fidelity_yield_raw": "fidelity",
    "de_wilcoxon_direction_reach_raw": "reach",
    "de_wilcoxon_sig_jaccard": "Jaccard",
    "de_wilcoxon_lfc_nmae": "LFC nMAE",
}
"""Name in cell-eval2 -> head of the tables."""


def overview(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scaled members and their mean, the score.

    Parameters
    ----------
    scores
        Columns: arm, context, seed, member, scaled.

    Returns
    -------
    pd.DataFrame
        Index: arm. Columns: the values of `MEMBERS`, then ``score``. Means over training seeds, then over contexts; NaN
        where one of them has no value, because a mean over fewer members or contexts would be of another panel.
    """
    panels = scores.pivot(index=["arm", "context", "seed"], columns="member", values="scaled")
    panels = panels.reindex(columns=list(MEMBERS)).rename(columns=MEMBERS)
    panels["score"] = panels.mean(axis=1, skipna=False)
    of_context = panels.groupby(["arm", "context"], sort=False).agg(lambda values: values.mean(skipna=False))
    table = of_context.groupby("arm", sort=False).agg(lambda values: values.mean(skipna=False))
    table.columns.name = None
    return pd.DataFrame(table)
