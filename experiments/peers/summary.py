"""Tables of peers beside the linear start, the best simple baseline and split halves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.real_screens.summary import BEST, START, difference_table, headline, means_of, without_nan


def write_summary(rows: pd.DataFrame, facts: Mapping[str, Any], failed: Mapping[str, str], out: Path) -> str:
    """Write ``results.json`` and ``table.md``, and return the tables.

    Parameters
    ----------
    rows
        Scores of every arm, seed and condition.
    facts
        Peer -> what its trials found in each fold.
    failed
        Peer -> why it stopped before the end.
    out
        Folder.
    """
    scores = [without_nan(record) for record in means_of(rows).reset_index().to_dict("records")]
    kept = {"failed": dict(failed), "peers": dict(facts), "scores": scores}
    (out / "results.json").write_text(json.dumps(kept, indent=1) + "\n")
    text = markdown(rows, list(facts), failed)
    (out / "table.md").write_text(text + "\n")
    return text


def markdown(rows: pd.DataFrame, peers: Sequence[str], failed: Mapping[str, str]) -> str:
    """Return a table of scores and one of differences for each screen; a peer has a column where it has all folds."""
    parts = [f"{name} stopped before the end: {why}." for name, why in failed.items()]
    means: Any = means_of(rows)
    for group, own in rows.groupby("group", sort=False):
        folds = own["fold"].nunique()
        whole = [name for name in peers if own.loc[own["arm"] == name, "fold"].nunique() == folds]
        conditions = own[["fold", "context", "perturbation"]].drop_duplicates()
        seeds = own.loc[own["arm"] == START, "seed"].nunique()
        parts.append(f"**{group}**: {len(conditions)} conditions in {folds} folds, {seeds} seeds")
        parts.append(headline(means.loc[group], (START, *whole)))
        pairs = [(name, other) for name in whole for other in (START, BEST)]
        independent = pd.DataFrame(own[own["controls"] == "independent"])
        parts.append(difference_table(independent, pairs))
    return "\n\n".join(parts)
