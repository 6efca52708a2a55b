"""Score predicted against observed cells: from two files to an `Evaluation`."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bionemo.perteval.engines import challenge, other_release
from bionemo.perteval.engines.environment import thread_count
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.inputs.alignment import align
from bionemo.perteval.inputs.divisions import Asked, Divisions, divide
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile, Source, read_observed, read_predictions
from bionemo.perteval.inputs.screen import Screen
from bionemo.perteval.metrics.scores import versions
from bionemo.perteval.populations.baselines import BASELINES
from bionemo.perteval.populations.catalogue import list_arms, population_notes
from bionemo.perteval.populations.ceiling import INTERPOLATED, SPLIT_HALVES, SPLIT_REPEATS
from bionemo.perteval.report.files import check_writable, plain, write
from bionemo.perteval.report.warnings import noise_of
from bionemo.perteval.rules.ruleset import Held, HvgFrom, Ruleset, TrainedOn
from bionemo.perteval.scoring import score_arms
from bionemo.screens.errors import InputError

Engine = Literal["0.6", "0.8", "vcc2026", "cell-eval2"]
"""What scores beside this package's own tests and cell-eval 0.6."""

_ENGINES: dict[str, dict[str, str]] = {
    "0.6": {},
    "0.8": {"other cell-eval": other_release.CELL_EVAL.release},
    "vcc2026": {},
    "cell-eval2": {"cell-eval2": challenge.CELL_EVAL2.release},
}
"""Engine -> the versions that it adds to the report."""


def evaluate(
    predicted: Source | Mapping[str, Source | Sequence[Source]],
    observed: Source,
    *,
    out: Path | str | None = None,
    perturbation_key: str | None = None,
    control: str | None = None,
    context_key: str | None = None,
    target_sum: float | None = None,
    layer: str | None = None,
    within: str | None = None,
    min_cells: int | None = None,
    held_out: Collection[tuple[str, str]] | None = None,
    protocol: str | Path | None = None,
    split: str | Path | None = None,
    training_conditions: TrainedOn | None = None,
    hvg_from: HvgFrom | None = None,
    strict: bool = False,
    controls: Asked = "both",
    control_rotation: int | None = None,
    arms: Literal["all", "main"] = "all",
    engine: Engine = "0.6",
    seed: int = 0,
    threads: int | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> Evaluation:
    """Score predicted cells against observed cells, with baselines, oracles and the split-half ceiling beside.

    Every context is scored apart, and each arm has as many cells per perturbation as were observed. Observed shifts are
    measured against one part of the observed control cells, predicted ones against another, from which the baselines
    are made too, so that no two sides share the noise of a control mean. Shared control cells are all on both sides.

    Parameters
    ----------
    predicted
        Path or AnnData of predicted cells: `X` in log1p, `obs` with perturbation and context. A path is an h5ad file, a
        zarr directory or a folder of prediction shards. Control cells in it are ignored. The genes of the first are the
        panel. Several predictions as name -> source; several training seeds of one as name -> list of sources. All have
        to predict the same conditions.
    observed
        Path or AnnData of observed cells, best the whole screen: what is neither scored nor held out is what the
        baselines are made from. Counts (normalised here by their sum over all genes of the file) or log1p.
    out
        Folder for `write`; None writes nothing. That it can be written is checked before anything is scored.
    perturbation_key, context_key
        Columns of `obs` in all files. Where None, ``predicted.uns["prediction"]`` says it; so for the next two.
    control
        Label of the control cells.
    target_sum
        Counts per cell that observed counts are normalised to before log1p.
    layer
        Layer of the observed file; None for its `X`.
    within
        Column of `obs` by which each context is divided into subpopulations that are scored apart, such as the cell
        types of a donor's blood, which the model need not know: predicted cells have the label of the control cell that
        they were made from. Split, protocol and training conditions still name whole contexts.
    min_cells
        Conditions with fewer predicted, observed or control cells are left out, which the report says. None refuses
        conditions with a single observed cell.
    held_out
        Further (context, perturbation) pairs that nothing must be trained on, such as validation conditions: the
        baselines do not use them, and a prediction whose model did is refused.
    protocol
        Name of a benchmark or file of a `Protocol`: the keys, and the contexts that may be scored.
    split
        TOML file of held-out conditions in the layout of the training; the protocol's own where None.
    training_conditions
        (context, perturbation) pairs that the models of the predictions were trained on, besides what they say; or
        name of a prediction -> pairs. Only observed pairs, because no other can leak.
    hvg_from
        Which cells chose the genes (train, all, given), for predictions that do not say it; or name of a prediction
        -> which.
    strict
        Refuse also predictions that used a statistic of held-out cells, or control cells that the truth is measured
        against, and what cannot be checked.
    controls
        ``"independent"``, ``"shared"`` as published protocols do, or ``"both"``: the second in `Evaluation.shared`.
    control_rotation
        Which parts of the control cells have which role (0, 1, 2), for predictions that do not say it; 0 where None.
    arms
        ``"main"`` for the short list of baselines, without oracles.
    engine
        ``"0.8"`` also scores with that release of cell-eval, ``"vcc2026"`` also with the members of the Virtual Cell
        Challenge 2026, and ``"cell-eval2"`` with those as that package computes them. Packages have environments that
        are made for them once. Where one cannot be made, or fails on these cells, the report says so and has the rest.
    seed
        Seed of every random draw.
    jobs
        How many processes share the contexts, which pays where there are many contexts and cores; a script that gives
        more than one needs ``if __name__ == "__main__":``. The scores do not depend on it.
    threads
        How many threads of each process share the perturbations; None takes the cores this process may use, sixteen at
        most, and divides them among the jobs. The scores do not depend on it.
    progress
        Whether to show a progress bar on stderr.

    Returns
    -------
    Evaluation
        The scores; ``.table`` has the means.

    Raises
    ------
    InputError
        Where the input cannot be evaluated or `out` cannot be written; the message names what and the mend.
    """
    if protocol == "vcc2026":
        raise InputError(
            "The protocol vcc2026 has scores of its own: call perteval.evaluate_submission, or give evaluate "
            "engine='vcc2026' for its members beside all others."
        )
    threads = _check_options(seed=seed, threads=threads, jobs=jobs, arms=arms, engine=engine)
    if out is not None:
        check_writable(Path(out))
    rules = Ruleset.read(protocol, split, pairs=held_out or (), strict=strict)
    predictions = read_predictions(predicted, reserved=(*BASELINES, SPLIT_HALVES, INTERPOLATED))
    truth = read_observed(observed)

    given = {"perturbation_key": perturbation_key, "context_key": context_key, "control": control}
    given |= {"target_sum": target_sum, "layer": layer, "within": within}
    keys = Keys.resolve(rules.keys(given), _stated(predictions))
    screen = align(predictions, truth, keys, min_cells=min_cells, seed=seed)
    held = rules.hold(screen, predictions, trained_on=training_conditions, hvg_from=hvg_from)
    divisions, said = divide(screen, predictions, truth, controls=controls, rotation=control_rotation, strict=strict)
    settings = _settings(held, rules, keys, predictions, truth, min_cells=min_cells, seed=seed)
    settings["controls"] = [str(mode) for mode in divisions.modes]
    settings["control_rotations"] = [roles.rotation for roles in divisions.independent]
    notices = [*screen.notices, *made_of(predictions), *said]
    screen = held.screen
    del predictions, truth  # the screen has what is scored of them

    how: dict[str, Any] = {"main": arms == "main", "seed": seed, "threads": threads, "progress": progress}
    scores = score_arms(screen, divisions, jobs=jobs, **how)
    of_engine, failed = _score_further(engine, screen, divisions, how)
    notes = [*screen.notes, *held.notes, *population_notes(screen)]
    notes += [noise_of(scores.noise)] if scores.noise else []
    first, *further = (
        Evaluation(
            per_perturbation=tables["per_perturbation"],
            per_seed=tables["per_seed"],
            arms=list_arms(screen, main=arms == "main"),
            profiles=scores.profiles,
            settings=settings,
            versions=versions() | _ENGINES[engine],
            controls=mode,
            noise=scores.noise,
            notices=(*notices, *failed),
            notes=tuple(notes),
        )
        for mode, tables in scores.tables.items()
    )
    evaluation = replace(first, shared=further[0] if further else None, **of_engine)
    if out is not None:
        write(evaluation, out)
    return evaluation


def _check_options(*, seed: int, threads: int | None, jobs: int, arms: str, engine: str) -> int:
    """Refuse options out of range, and return the number of threads."""
    if seed < 0:
        raise InputError(f"seed is {seed}, but it has to be 0 or above.")
    if arms not in ("all", "main"):
        raise InputError(f"The arms are {arms!r}, but they can be all or main.")
    if engine not in _ENGINES:
        raise InputError(f"The engine is {engine!r}, but it can be {', '.join(_ENGINES)}.")
    if jobs < 1:
        raise InputError(f"jobs is {jobs}, but it takes at least 1.")
    return thread_count(threads, jobs)


def _score_further(
    engine: str, screen: Screen, divisions: Divisions, how: Mapping[str, Any]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return fields of `Evaluation` from another engine, and what it lacks; without it all other scores still count."""
    try:
        if engine == "0.8":
            return {"other_engine": other_release.score_arms(screen, divisions, **how)}, []
        if engine in ("vcc2026", "cell-eval2"):
            alone = sorted(set(screen.scored) - set(challenge.panels(screen)))
            said = [f"The challenge leaves out {', '.join(alone)}, where one perturbation is scored."] if alone else []
            return {"challenge": challenge.score_challenge(screen, original=engine == "cell-eval2", **how)}, said
    except InputError as error:
        return {}, [str(error)]
    return {}, []


def _stated(predictions: Sequence[CellFile]) -> dict[str, Any]:
    """Return what the first prediction that says anything says about itself."""
    return next((file.stated for file in predictions if file.stated), {})


def made_of(predictions: Sequence[CellFile]) -> list[str]:
    """Say what each prediction was made of, where its file says it: start, network, control cells, evidence."""
    notices = []
    for file in predictions:
        said = {name: value for name, value in file.stated.items() if str(value) not in ("None", "none", "")}
        facts = []
        if "made_of" in said:
            facts.append(f"is {plain(said['made_of'])}")
        if "evidence" in said:
            facts.append(f"had as evidence: {plain(said['evidence'])}")
        if hasattr(said.get("controls"), "keys"):
            roles = plain(said["controls"])
            facts.append(f"was made with {roles.get('controls')} control cells, rotation {roles.get('rotation')}")
        if facts:
            notices.append(f"{file.name} {'; '.join(facts)}.")
    return notices


def _settings(
    held: Held,
    rules: Ruleset,
    keys: Keys,
    predictions: Sequence[CellFile],
    observed: CellFile,
    *,
    min_cells: int | None,
    seed: int,
) -> dict[str, Any]:
    """Return what decided the numbers, as the report shows it."""
    screen = held.screen
    conditions = {
        "scored": {context: list(names) for context, names in screen.scored.items()},
        "held_out": sorted(map(list, held.held_out)),
        "training": sorted(map(list, screen.training)),
    }
    return {
        "predicted": ", ".join(file.name for file in predictions),
        "predictions": {arm: [file.name for file in predictions if file.arm == arm] for arm in screen.predictions},
        "observed": observed.name,
        **asdict(keys),
        "target_sum": screen.target_sum,
        "min_cells": min_cells,
        "genes": int(screen.genes.size),
        "seed": seed,
        "split_repeats": SPLIT_REPEATS,
        **conditions,
        "left_out": sorted(map(list, screen.left_out)),
        "hvg_from": held.hvg_from,
        "protocol": rules.statement(screen, keys, held.hvg_from),
        # Reports of other conditions do not compare.
        "conditions_sha256": hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest(),
        "prediction": plain(_stated(predictions)),
    }
