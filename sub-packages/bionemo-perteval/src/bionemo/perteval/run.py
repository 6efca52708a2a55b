"""`evaluate`: two files to an `Evaluation`."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import anndata as ad

from bionemo.perteval.engines import cell_eval as other_engine
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.inputs import reading
from bionemo.perteval.inputs.checks import Keys
from bionemo.perteval.inputs.reading import Prediction
from bionemo.perteval.inputs.screen import Screen
from bionemo.perteval.metrics import scoring
from bionemo.perteval.populations.arms import listed, notes, score_arms
from bionemo.perteval.populations.baselines import BASELINES, PREDICTION
from bionemo.perteval.populations.ceiling import SPLIT_HALVES, SPLIT_REPEATS
from bionemo.perteval.report import files as output
from bionemo.perteval.rules.rules import HvgFrom, Rules, TrainedOn
from bionemo.perteval.significance.cache import TestCache
from bionemo.screens.errors import InputError

Source = Path | str | ad.AnnData
"""An h5ad file or the cells themselves."""

_MOST_THREADS = 16


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
    held_out: Collection[tuple[str, str]] | None = None,
    protocol: str | Path | None = None,
    split: str | Path | None = None,
    training_conditions: TrainedOn | None = None,
    hvg_from: HvgFrom | None = None,
    strict: bool = False,
    arms: Literal["all", "main"] = "all",
    engine: Literal["0.6", "0.8"] = "0.6",
    cache: Path | str | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score predicted cells against observed cells, with baselines, oracles and the split-half ceiling beside.

    Every context is scored apart, with the observed control cells on both sides, and each arm has as many cells per
    perturbation as were observed.

    Parameters
    ----------
    predicted
        h5ad file or AnnData of predicted cells: `X` in log1p, `obs` with perturbation and context. Control cells in it
        are ignored. The genes of the first are the panel. Several predictions as name -> file; several training seeds
        of one as name -> list of files. All have to predict the same conditions.
    observed
        h5ad file or AnnData of observed cells, best the whole screen: what is neither scored nor held out is what the
        baselines are made from. Counts (normalised here by their sum over all genes of the file) or log1p.
    out
        Folder for `Evaluation.write`; None writes nothing. That it can be written is checked before anything is scored.
    perturbation_key, context_key
        Columns of `obs` in all files. Where None, ``predicted.uns["prediction"]`` says it; so for the next three.
    control
        Label of the control cells.
    target_sum
        Counts per cell that observed counts are normalised to before log1p.
    layer
        Layer of the observed file instead of its `X`.
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
        Refuse also predictions that used a statistic of held-out cells, and what cannot be checked.
    arms
        ``"main"`` for the short list of baselines, without oracles.
    engine
        ``"0.8"`` also scores with that release of cell-eval, in an environment that is made for it once.
    cache
        Folder where the tests of observed cells are kept by their content; None tests them anew.
    seed
        Of every random draw.
    threads
        That share the perturbations; None takes the cores this process may use, sixteen at most. The scores do not
        depend on it.
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
        output.check_writable(Path(out))
    predictions = _read_predictions(predicted)
    observed_cells, observed_name = reading.read(observed, "observed")
    stated = [reading.stated(prediction.cells) for prediction in predictions]
    rules = Rules.read(protocol, split, pairs=held_out or (), strict=strict)
    keys = Keys.resolve(
        next(filter(None, stated), {}),
        rules.keys(
            {
                "perturbation_key": perturbation_key,
                "context_key": context_key,
                "control": control,
                "target_sum": target_sum,
                "layer": layer,
            }
        ),
    )
    if seed < 0:
        raise InputError(f"seed is {seed}, but it has to be 0 or above.")
    if threads is None:
        threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    elif threads < 1:
        raise InputError(f"threads is {threads}, but it takes at least 1.")
    if arms not in ("all", "main"):
        raise InputError(f"The arms are {arms!r}, but they can be all or main.")
    if engine not in ("0.6", "0.8"):
        raise InputError(f"The engine is {engine!r}, but it can be 0.6 or 0.8.")
    unseen = rules.held_out(reading.conditions(observed_cells, keys, observed_name), keys.control)
    screen = reading.build(predictions, observed_cells, keys, observed_name=observed_name, held_out=unseen, seed=seed)
    parity, chosen = rules.check_predictions(predictions, screen, trained_on=training_conditions, hvg_from=hvg_from)
    environment = other_engine.prepare(progress=progress) if engine == "0.8" else None
    files = _files(predictions)
    del predictions, observed_cells  # the screen has what is scored of them
    main = arms == "main"
    scores = score_arms(
        screen,
        main=main,
        seed=seed,
        threads=threads,
        progress=progress,
        cache=None if cache is None else TestCache(Path(cache)),
    )
    versions = scoring.versions()
    other = None
    if environment:
        other = other_engine.score_arms(screen, environment, main=main, seed=seed, threads=threads, progress=progress)
        versions["other cell-eval"] = other_engine.RELEASE
    evaluation = Evaluation(
        per_perturbation=scores.per_perturbation,
        per_seed=scores.per_seed,
        arms=listed(screen, main=main),
        profiles=scores.profiles,
        settings={
            "predicted": ", ".join(name for names in files.values() for name in names),
            "predictions": files,
            "observed": observed_name,
            "perturbation_key": keys.perturbation_key,
            "context_key": keys.context_key,
            "control": keys.control,
            "target_sum": screen.target_sum,
            "layer": keys.layer,
            "genes": int(screen.genes.size),
            "seed": seed,
            "split_repeats": SPLIT_REPEATS,
            "scored": {context: list(labels) for context, labels in screen.scored.items()},
            "held_out": sorted(map(list, unseen)),
            "training": [list(condition) for condition in screen.training],
            "hvg_from": chosen,
            "protocol": rules.statement(screen, keys, chosen),
            "conditions_sha256": _conditions_hash(screen, unseen),
            "prediction": output.plain(stated[0]),
        },
        versions=versions,
        notes=(*parity, *screen.notes, *notes(screen)),
        other_engine=other,
    )
    if out is not None:
        evaluation.write(Path(out))
    return evaluation


def _conditions_hash(screen: Screen, held_out: Collection[tuple[str, str]]) -> str:
    """Return the SHA-256 of what is scored, held out and trained on; reports with another one do not compare."""
    parts = {
        "scored": [[context, name] for context, names in screen.scored.items() for name in names],
        "held_out": sorted([str(context), str(name)] for context, name in held_out),
        "training": sorted(list(condition) for condition in screen.training),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_predictions(predicted: Source | Mapping[str, Source | Sequence[Source]]) -> list[Prediction]:
    named = predicted if isinstance(predicted, Mapping) else {PREDICTION: predicted}
    predictions = []
    for arm, sources in named.items():
        if arm in BASELINES or arm in (SPLIT_HALVES, "observed", ""):
            raise InputError(f"A prediction cannot be named {arm!r}, which the report calls something else by.")
        listed = list(sources) if isinstance(sources, Sequence) and not isinstance(sources, str) else [sources]
        for source in listed:
            cells, name = reading.read(source, "predicted")
            predictions.append(Prediction(arm=arm, cells=cells, name=name if len(named) == 1 else f"{arm}: {name}"))
    if not predictions:
        raise InputError("There is no prediction to score; give at least one with --predicted.")
    return predictions


def _files(predictions: list[Prediction]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for prediction in predictions:
        files.setdefault(prediction.arm, []).append(prediction.name)
    return files
