"""Write the files of an evaluation: report.html, metrics.json and tables as CSV."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import STRONG_EFFECT
from bionemo.perteval.populations.baselines import CONTROL_CELLS
from bionemo.perteval.populations.ceiling import SPLIT_HALVES
from bionemo.perteval.report.page import html
from bionemo.perteval.report.warnings import warnings
from bionemo.screens.errors import InputError
from bionemo.screens.making import scratch_folder

REPORT = "report.html"

_TABLES: dict[str, Callable[[Evaluation], pd.DataFrame]] = {
    "comparisons": lambda of: of.comparisons.reset_index(),
    "per_perturbation": lambda of: of.per_perturbation,
    "calibration": lambda of: of.calibration.reset_index(),
    "strata": lambda of: of.strata,
    "conditions": lambda of: of.placed.reset_index(),
}
"""Name of a CSV file -> its rows under one kind of control cells."""


def write(evaluation: Evaluation, out: Path | str) -> Path:
    """Write report.html, metrics.json and tables as CSV into a folder.

    The tables are metrics, comparisons, per_perturbation, calibration, strata and conditions; those of other engines
    where they were asked for.

    Parameters
    ----------
    evaluation
        What to write.
    out
        Folder; made where absent, its other files are left alone.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        Where the folder cannot be made or written into.
    """
    out = Path(out)
    content = json.dumps(to_dict(evaluation), indent=2, allow_nan=False) + "\n"
    page = html(evaluation)
    with moved_into(out, REPORT) as folder:
        (folder / "metrics.json").write_text(content, "utf-8")
        long_table(evaluation).to_csv(folder / "metrics.csv", index=False)
        for name, of in _TABLES.items():
            tables = {str(kind.controls): of(kind) for kind in evaluation.kinds}
            pd.concat(tables, names=["controls"]).reset_index("controls").to_csv(folder / f"{name}.csv", index=False)
        if evaluation.other_engine is not None:
            evaluation.other_engine.to_csv(folder / "per_perturbation_other_engine.csv", index=False)
        if evaluation.challenge is not None:
            evaluation.challenge.to_csv(folder / "challenge.csv", index=False)
        (folder / REPORT).write_text(page, "utf-8")
    return out / REPORT


def long_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return one row per kind of control cells, subset (all, strong), arm and metric, the first kind first.

    Columns, besides: value, interval, normalised value, spread over seeds.
    ``normalised`` is between control cells and split halves, ``corrected`` the ceiling after Spearman-Brown,
    ``without_value`` the number of conditions that are left out.
    """
    parts = []
    subsets = ((subset, of) for each in evaluation.kinds for subset, of in (("all", each), ("strong", each.strong)))
    for subset, scores in subsets:
        if scores is None:
            continue
        normalised, spread = scores.normalised(), scores.seed_spread
        for arm, metric in ((arm, metric) for arm in scores.arms for metric in scores.metrics):
            low, high = scores.intervals.loc[(arm, metric)]
            ceiling = scores.corrected_ceiling if arm == SPLIT_HALVES else {}
            parts.append(
                {
                    "controls": str(scores.controls),
                    "subset": subset,
                    "arm": arm,
                    "kind": scores.arms[arm].kind,
                    "metric": metric,
                    "value": scores.table.loc[arm, metric],
                    "low": low,
                    "high": high,
                    "normalised": normalised[metric].get(arm) if metric in normalised else None,
                    "corrected": ceiling.get(metric),
                    "seed_spread": spread[metric].get(arm),
                    "conditions": scores.conditions,
                    "without_value": scores.missing.loc[arm, metric],
                }
            )
    return pd.DataFrame(parts)


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything but the pictures as plain values; a missing number is None.

    What follows from the scores stands at the top, and once more under ``shared`` for shared control cells.
    """
    profiles = evaluation.profiles
    content = {
        **_tables(evaluation),
        "shared": None if evaluation.shared is None else _tables(evaluation.shared),
        "noise": evaluation.noise,
        "observed": {
            "fraction_of_zeros": profiles.zeros["observed"].mean(),
            "variance": profiles.variances["observed"].mean(),
        },
        "other_engine": _other_engine(evaluation),
        "challenge": None if evaluation.challenge_table is None else evaluation.challenge_table.T.to_dict(),
        "flags": [
            {
                "prediction": flag.arm, "check": flag.check.name, "kind": flag.check.kind, "value": flag.value,
                "low": flag.check.low, "high": flag.check.high, "raised": flag.raised,
                "definition": flag.check.definition, "meaning": flag.check.meaning,
            }
            for flag in evaluation.flags
        ],
        "warnings": warnings(evaluation),
        "notices": [*evaluation.notices, *evaluation.failed_seeds],
        "notes": list(evaluation.notes),
        "settings": evaluation.settings,
        "versions": evaluation.versions,
    }  # fmt: skip
    return plain(content)


def _tables(evaluation: Evaluation) -> dict[str, Any]:
    """Return what follows from the scores under one kind of control cells."""
    strong, profiles = evaluation.strong, evaluation.profiles
    return {
        "controls": str(evaluation.controls),
        "arms": {
            arm: {
                "kind": evaluation.arms[arm].kind,
                "definition": evaluation.arms[arm].definition,
                **_scores(evaluation, arm),
                "strong": None if strong is None else _scores(strong, arm),
                "fraction_of_zeros": profiles.zeros[arm].mean(),
                "variance": profiles.variances[arm].mean(),
                "per_context": {
                    context: evaluation.per_context.loc[(arm, context)].to_dict()
                    for context in evaluation.per_context.loc[arm].index
                },
                "seeds": [
                    row.to_dict() for _, row in evaluation.per_seed_table.loc[[arm]].iterrows()
                ] if arm in evaluation.predictions else None,
            }
            for arm in evaluation.arms
        },
        "normalised": {
            "baseline": CONTROL_CELLS,
            "ceiling": SPLIT_HALVES,
            "arms": evaluation.normalised().T.to_dict(),
        },
        "ceiling_after_spearman_brown": evaluation.corrected_ceiling.to_dict(),
        "comparisons": evaluation.comparisons.reset_index().to_dict("records"),
        "calibration": evaluation.calibration.T.to_dict(),
        "strata": evaluation.strata.to_dict("records"),
        "conditions": evaluation.conditions,
        "strong_effect": {
            "observed_de_genes": STRONG_EFFECT,
            "conditions": 0 if strong is None else strong.conditions,
        },
    }  # fmt: skip


def _scores(evaluation: Evaluation, arm: str) -> dict[str, Any]:
    return {
        "metrics": evaluation.table.loc[arm].to_dict(),
        "intervals": {metric: list(evaluation.intervals.loc[(arm, metric)]) for metric in evaluation.metrics},
        "without_value": evaluation.missing.loc[arm].to_dict(),
    }


def _other_engine(evaluation: Evaluation) -> dict[str, Any] | None:
    side_by_side = evaluation.engines
    if side_by_side is None:
        return None
    return {
        str(arm): {name: list(rows.loc[name]) for name in evaluation.metrics if name in rows.index}
        for arm, rows in side_by_side.groupby("arm", sort=False)
        for rows in [rows.droplevel("arm")]
    }


def check_writable(out: Path) -> None:
    """Raise InputError where the folder could not be made and written into; nothing of the check stays."""
    with writing(out):
        absent = [folder for folder in (out.absolute(), *out.absolute().parents) if not os.path.lexists(folder)]
        os.scandir(absent[-1].parent if absent else out).close()  # what is not a folder is called so, and not "exists"
        with scratch_folder(out / REPORT):
            pass
        with contextlib.suppress(OSError):  # another process may have put something there
            for folder in absent:
                folder.rmdir()


@contextlib.contextmanager
def moved_into(out: Path, file: str) -> Iterator[Path]:
    """Give a hidden folder whose files are moved into `out` when all are written: no half file is ever there.

    The folder is named after one of the files; two processes cannot have it at once.
    """
    with writing(out), scratch_folder(out / file) as folder:
        yield folder
        for path in sorted(folder.iterdir()):
            os.replace(path, out / path.name)


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence about the output folder."""
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError(f"The output {out} is a file, but the report is a folder of files; name another with --out.")
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"The output {out} cannot be written ({reason}); free space there or name another with --out."
        ) from error


def plain(value: Any) -> Any:
    """Return `value` in JSON's types; NaN and infinity become None."""
    if isinstance(value, dict) or hasattr(value, "keys"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return None if value is None else str(value)
