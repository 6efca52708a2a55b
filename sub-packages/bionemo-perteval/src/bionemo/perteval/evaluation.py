"""Score a prediction between its baselines and its ceiling: `evaluate`, and the `Evaluation` that it returns."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from bionemo.perteval import arms, reading, report, scoring
from bionemo.perteval.baselines import CONTROL_CELLS, SPLIT_HALVES
from bionemo.perteval.checks import Keys
from bionemo.perteval.errors import InputError
from bionemo.perteval.metrics import METRICS
from bionemo.perteval.profiles import Profiles

_NAMES = [metric.name for metric in METRICS]
_MOST_PROCESSES = 8


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a prediction, its baselines and its ceiling. An *arm* is one of these populations.

    Attributes
    ----------
    per_perturbation
        One row per arm, context and perturbation: ``n_cells`` and the metrics; NaN where a metric has no value.
    definitions
        Arm -> what it is, in the order of the tables: the prediction, the baselines, the ceiling last.
    profiles
        What the pictures of the report are drawn from.
    settings
        Arguments of `evaluate` after defaults and the prediction's own statements, and what the baselines used.
    versions
        Versions of the packages that decide the numbers.
    notes
        What the reader of the numbers has to know.
    """

    per_perturbation: pd.DataFrame
    definitions: dict[str, str]
    profiles: Profiles
    settings: dict[str, Any]
    versions: dict[str, str]
    notes: tuple[str, ...]

    @cached_property
    def per_context(self) -> pd.DataFrame:
        """Mean over the perturbations that have a value. Index: (arm, context); columns: metrics."""
        return pd.DataFrame(self.per_perturbation.groupby(["arm", "context"], sort=False)[_NAMES].mean())

    @cached_property
    def table(self) -> pd.DataFrame:
        """Mean over contexts of `per_context`. Index: arm; columns: metrics."""
        return pd.DataFrame(self.per_context.groupby("arm", sort=False).mean())

    @cached_property
    def missing(self) -> pd.DataFrame:
        """Number of (context, perturbation) pairs without a value. Index: arm; columns: metrics."""
        empty = self.per_perturbation[_NAMES].isna()
        return pd.DataFrame(empty.groupby(self.per_perturbation["arm"], sort=False).sum())

    def normalised(self, baseline: str = CONTROL_CELLS) -> pd.DataFrame:
        """Return (score - baseline) / (ceiling - baseline), not clipped: 0 is the baseline, 1 the ceiling.

        Parameters
        ----------
        baseline
            Arm that counts as 0.

        Returns
        -------
        pd.DataFrame
            Index: arm; columns: the metrics that have a better direction. NaN where the ceiling is not better than the
            baseline, because a share of the way between them means nothing then.

        Raises
        ------
        InputError
            Where there is no such arm.
        """
        if baseline not in self.table.index:
            raise InputError(f"There is no arm {baseline!r}; the arms are {', '.join(self.table.index)}.")
        directed = [metric for metric in METRICS if metric.best]
        table = self.table[[metric.name for metric in directed]]
        gap = table.loc[SPLIT_HALVES] - table.loc[baseline]
        sign = pd.Series({metric.name: 1 if metric.best == "high" else -1 for metric in directed})
        return (table - table.loc[baseline]) / gap.where(gap * sign > 0)

    def best(self, metric: str) -> set[str]:
        """Return the arms with the best score, the ceiling apart; empty for a plain count."""
        direction = next(item.best for item in METRICS if item.name == metric)
        scores = {arm: score for arm, score in self.table[metric].items() if arm != SPLIT_HALVES and score == score}
        if direction is None or not scores:
            return set()
        extreme = max(scores.values()) if direction == "high" else min(scores.values())
        return {str(arm) for arm, score in scores.items() if math.isclose(score, extreme, rel_tol=1e-6)}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values; a missing number is None."""
        return _plain(
            {
                "arms": {
                    arm: {
                        "definition": definition,
                        "metrics": self.table.loc[arm].to_dict(),
                        "without_value": self.missing.loc[arm].to_dict(),
                        "fraction_of_zeros": self.profiles.fraction_of_zeros(arm),
                        "variance": self.profiles.mean_variance(arm),
                        "per_context": {
                            context: self.per_context.loc[(arm, context)].to_dict()
                            for context in self.per_context.loc[arm].index
                        },
                    }
                    for arm, definition in self.definitions.items()
                },
                "normalised": {
                    "baseline": CONTROL_CELLS,
                    "ceiling": SPLIT_HALVES,
                    "arms": self.normalised().T.to_dict(),
                },
                "observed": {
                    "fraction_of_zeros": self.profiles.fraction_of_zeros("observed"),
                    "variance": self.profiles.mean_variance("observed"),
                },
                "notes": list(self.notes),
                "settings": self.settings,
                "versions": self.versions,
            }
        )

    def write(self, out: Path) -> Path:
        """Write metrics.json, metrics.csv, per_perturbation.csv and report.html into a folder.

        Each file is written beside the folder and moved in whole, so that no half file is ever there.

        Parameters
        ----------
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
        content = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        page = report.html(self)
        with _writing(out):
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as scratch:
                folder = Path(scratch)
                (folder / "metrics.json").write_text(content, "utf-8")
                self.table.to_csv(folder / "metrics.csv")
                self.per_perturbation.to_csv(folder / "per_perturbation.csv", index=False)
                (folder / "report.html").write_text(page, "utf-8")
                for path in sorted(folder.iterdir()):
                    os.replace(path, out / path.name)
        return out / "report.html"


def evaluate(
    predicted: Path | str | ad.AnnData,
    observed: Path | str | ad.AnnData,
    *,
    out: Path | str | None = None,
    perturbation_key: str | None = None,
    control: str | None = None,
    context_key: str | None = None,
    target_sum: float | None = None,
    layer: str | None = None,
    held_out: Collection[tuple[str, str]] | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score predicted cells against observed cells, with baselines and the split-half ceiling beside.

    Every context is scored apart by cell-eval, with the observed control cells on both sides, and each arm has as many
    cells per perturbation as were observed.

    Parameters
    ----------
    predicted
        h5ad file or AnnData of predicted cells: `X` in log1p, `obs` with perturbation and context. Control cells in it
        are ignored. Its genes are the panel.
    observed
        h5ad file or AnnData of observed cells, best the whole screen: what is neither scored nor held out is what the
        baselines are made from. Counts (normalised here by their sum over all genes of the file) or log1p.
    out
        Folder for `Evaluation.write`; None writes nothing. That it can be written is checked before anything is scored.
    perturbation_key, context_key
        Columns of `obs` in both files. Where None, ``predicted.uns["prediction"]`` says it; so for the next three.
    control
        Label of the control cells.
    target_sum
        Counts per cell that observed counts are normalised to before log1p.
    layer
        Layer of the observed file instead of its `X`.
    held_out
        Further (context, perturbation) pairs that the baselines must not use, such as validation conditions.
    seed
        Of every random draw.
    processes
        Worker processes of the tests; None takes the cores this process may use, eight at most.
    progress
        Whether to show a progress bar on stderr.

    Returns
    -------
    Evaluation
        The scores.

    Raises
    ------
    InputError
        Where the input cannot be evaluated or `out` cannot be written; the message names what and the mend.
    """
    if out is not None:
        _check_writable(Path(out))
    predicted_cells, predicted_name = reading.read(predicted, "predicted")
    observed_cells, observed_name = reading.read(observed, "observed")
    stated = reading.stated(predicted_cells)
    keys = Keys.resolve(
        stated,
        {
            "perturbation_key": perturbation_key,
            "context_key": context_key,
            "control": control,
            "target_sum": target_sum,
            "layer": layer,
        },
    )
    if seed < 0:
        raise InputError(f"seed is {seed}, but it has to be 0 or above.")
    if processes is None:
        processes = min(_MOST_PROCESSES, len(os.sched_getaffinity(0)))
    elif processes < 1:
        raise InputError(f"processes is {processes}, but it takes at least 1.")
    screen = reading.build(
        predicted_cells,
        observed_cells,
        keys,
        names=(predicted_name, observed_name),
        held_out=held_out or (),
        seed=seed,
    )
    definitions = arms.definitions(screen)
    per_perturbation, profiles = arms.score_arms(screen, seed=seed, processes=processes, progress=progress)
    evaluation = Evaluation(
        per_perturbation=per_perturbation,
        definitions=definitions,
        profiles=profiles,
        settings={
            "predicted": predicted_name,
            "observed": observed_name,
            "perturbation_key": keys.perturbation_key,
            "context_key": keys.context_key,
            "control": keys.control,
            "target_sum": screen.target_sum,
            "layer": keys.layer,
            "genes": int(screen.genes.size),
            "seed": seed,
            "split_repeats": arms.SPLIT_REPEATS,
            "scored": {context: list(labels) for context, labels in screen.scored.items()},
            "held_out": sorted([str(c), str(p)] for c, p in held_out or ()),
            "training": [list(condition) for condition in screen.training],
            "prediction": _plain(stated),
        },
        versions=scoring.versions(),
        notes=(*screen.notes, *arms.notes(screen)),
    )
    if out is not None:
        evaluation.write(Path(out))
    return evaluation


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
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


def _check_writable(out: Path) -> None:
    """Raise InputError where the folder could not be made and written into; nothing of the check stays."""
    with _writing(out):
        folder = out.absolute()
        while not os.path.lexists(folder):
            folder = folder.parent
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-"):
            pass


def _plain(value: Any) -> Any:
    """Return `value` in JSON's types; NaN and infinity become None."""
    if isinstance(value, dict) or hasattr(value, "keys"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return None if value is None else str(value)
