"""Score predictions under the rules of the Virtual Cell Challenge 2026, from files of whole counts.

The rules are those of cell-eval2 0.20.0 under its preset vcc2026. Control cells are always the observed ones.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bionemo.perteval.engines import challenge
from bionemo.perteval.engines.environment import thread_count
from bionemo.perteval.inputs.reading import CellFile, Source, read_observed, read_predictions
from bionemo.perteval.inputs.screen import Populations
from bionemo.perteval.inputs.submission import Counted, RealCells, read_counted, read_real
from bionemo.perteval.metrics.challenge import MEMBERS, overview
from bionemo.perteval.metrics.challenge_points import Panel
from bionemo.perteval.report import challenge as page
from bionemo.perteval.report.files import REPORT, check_writable, moved_into, plain
from bionemo.perteval.rules.leakage import TrainingRecord, check_leakage
from bionemo.screens.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ChallengeScores:
    """`ChallengeScores` are what the challenge says of predictions."""

    members: pd.DataFrame
    """One row per arm, context, training seed and member, as `engines.challenge.score_challenge` returns them."""
    notes: tuple[str, ...]
    """What the reader has to know."""
    settings: Mapping[str, Any]
    """What was scored, and by which engine."""

    @property
    def table(self) -> pd.DataFrame:
        """Return the scaled members and the overall score, by arm."""
        return overview(self.members)


def evaluate_submission(
    predicted: Source | Mapping[str, Source | Sequence[Source]],
    observed: Source,
    *,
    out: Path | str | None = None,
    perturbation_key: str | None = None,
    control: str | None = None,
    context_key: str | None = None,
    layer: str | None = None,
    engine: Literal["vcc2026", "cell-eval2"] = "vcc2026",
    threads: int | None = None,
    progress: bool = True,
) -> ChallengeScores:
    """Score submissions to the Virtual Cell Challenge 2026, or predictions of this project by its rules.

    Parameters
    ----------
    predicted
        A submission (whole counts, targets in ``obs["target"]``, control cells under ``non-targeting``), or a
        prediction in log1p that names the control cell of each of its cells. Several as `evaluate` takes them. Control
        cells in it are ignored.
    observed
        The real cells: whole counts of all genes, with control cells. A submission needs the cells of one line.
    out
        Folder for report.html, challenge.csv and metrics.json; None writes nothing.
    perturbation_key, control, context_key
        Of the observed file. Where None, what the prediction says if the file has that column; else ``target``,
        ``non-targeting``, and one line.
    layer
        Layer of the observed file that holds the counts; None for `X`.
    engine
        ``"cell-eval2"`` computes the members with that package, in an environment of its own.
    threads
        How many threads share the perturbations; None takes the cores this process may use, sixteen at most.
    progress
        Whether to show a bar on stderr.

    Raises
    ------
    InputError
        The files do not fit the challenge, a model was trained on what is scored, or `out` cannot be written.
    """
    if engine not in ("vcc2026", "cell-eval2"):
        raise InputError(f"The protocol vcc2026 is scored by the engine vcc2026 or cell-eval2, not by {engine!r}.")
    threads = thread_count(threads)
    if out is not None:
        check_writable(Path(out))
    files = read_predictions(predicted)
    given = {"perturbation_key": perturbation_key, "control": control, "context_key": context_key, "layer": layer}
    real = read_real(read_observed(observed), given, files[0].stated)
    counted = [(file, read_counted(file, real)) for file in files]
    notes = [note for file, cells in counted for note in _said(file, cells, real)]
    scored = _panels([cells for _, cells in counted], real)
    drawn: list[challenge.Drawn] = []
    for file, cells in counted:
        drawn.append((file.arm, sum(arm == file.arm for arm, _, _ in drawn), cells.counts))

    def panel_of(context: str) -> Panel:
        return Panel(
            genes=real.genes.to_numpy(str),
            control=real.control,
            controls=real.counts(context, real.control),
            truth=Populations(scored[context], partial(real.counts, context)),
            threads=threads,
        )

    members = challenge.score_panels(scored, panel_of, drawn, original=engine == "cell-eval2", progress=progress)
    found = ChallengeScores(
        members=members,
        notes=tuple(dict.fromkeys(notes)),
        settings={
            "protocol": "vcc2026",
            "engine": f"cell-eval2 {challenge.CELL_EVAL2.release}" if engine == "cell-eval2" else "perteval",
            "rules": f"cell-eval2 {challenge.CELL_EVAL2.release}, preset vcc2026",
            "predicted": {arm: [file.name for file in files if file.arm == arm] for arm in members["arm"].unique()},
            "observed": real.name,
            "genes": int(real.genes.size),
            "scored": scored,
        },
    )
    if out is not None:
        _write(found, Path(out))
    return found


def render(found: ChallengeScores) -> Any:
    """Return the tables for a terminal: each member with its two points, and the overall score."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from bionemo.screens.printable import printable

    shown: list[Any] = []
    means = found.members.groupby(["arm", "member"], sort=False)[["value", "zero", "one"]].mean()
    for arm, scaled in found.table.iterrows():
        table = Table("", "value", "0 point", "1 point", "scaled", title=printable(str(arm)), title_justify="left")
        for name, head in MEMBERS.items():
            values = [*means.loc[(arm, name)], scaled[head]]
            table.add_row(head, *("–" if np.isnan(value) else f"{value:.4f}" for value in values))
        score = float(scaled["score"])
        table.add_row("score", "", "", "", "–" if np.isnan(score) else f"{score:.4f}")
        shown.append(table)
    legend = (
        "0: the mean observed response, given to every target; 1: one half of the cells against the other; –: a member "
        "has no value, or its points stand in the wrong order, as with few cells"
    )
    return Group(*shown, Text(legend, style="dim"), *(Text(printable(note), style="bold") for note in found.notes))


def _panels(counted: Sequence[Counted], real: RealCells) -> dict[str, list[str]]:
    """Return context -> scored perturbations; all predictions must have the same."""
    first = sorted(counted[0].rows)
    if any(sorted(each.rows) != first for each in counted[1:]):
        raise InputError("The predictions have different targets; give predictions of the same ones.")
    of_context: dict[str, list[str]] = {}
    for context, name in first:
        of_context.setdefault(context, []).append(name)
    alone = [context for context, names in of_context.items() if len(names) < 2]
    if alone or not of_context:
        raise InputError(
            f"{real.name} has fewer than two scored targets in {', '.join(alone) or 'any context'}, and the challenge "
            "ranks them among each other: predict two at least."
        )
    return of_context


def _said(file: CellFile, cells: Counted, real: RealCells) -> Iterator[str]:
    """Refuse a model that has seen what is scored, and say what could not be checked or is not scored."""
    record = TrainingRecord.of(file)
    yield from check_leakage(
        record, file.name, scored=list(cells.rows), held_out=(), control=real.control, split=None, strict=False
    )
    contexts = {context for context, _ in cells.rows}
    others = [c for c in real.rows if c[0] in contexts and c[1] != real.control and c not in cells.rows]
    if others:
        yield (
            f"{file.name} has no prediction of {len(others)} observed perturbations of its contexts; the challenge "
            "asks for all."
        )


def _write(found: ChallengeScores, out: Path) -> None:
    content = plain({**found.settings, "notes": list(found.notes), "scaled": found.table.T.to_dict()})
    report = page.html(found.members, notes=found.notes, settings=found.settings)
    with moved_into(out, REPORT) as folder:
        found.members.to_csv(folder / "challenge.csv", index=False)
        (folder / "metrics.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")
        (folder / REPORT).write_text(report, "utf-8")
