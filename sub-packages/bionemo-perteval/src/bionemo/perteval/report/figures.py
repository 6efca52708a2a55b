"""Choose the conditions that the report shows, and draw them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bionemo.perteval.checks.profiles import OBSERVED
from bionemo.perteval.evaluation import Evaluation
from bionemo.perteval.metrics.registry import STRONG_EFFECT, headline
from bionemo.perteval.metrics.strata import DIFFICULTIES, METRIC
from bionemo.perteval.populations.baselines import CONTROL_CELLS
from bionemo.perteval.populations.ceiling import SPLIT_HALVES
from bionemo.perteval.report import pictures
from bionemo.perteval.report.text import cannot_tell, de_counts, signed
from bionemo.screens.labels import Condition

MOST_PREDICTIONS = 3
"""Predictions that get pictures; the tables have all."""

SHIFTS_EACH, MOST_OVERLAPS, MOST_MAPS, LARGEST_MAP = 4, 30, 2, 100
"""Conditions of each of worst, median and best; bars; contexts with a map; perturbations in a map."""


@dataclass(frozen=True)
class Picture:
    """A `Picture` is an address for ``src``, what it says to those who do not see it, and what stands below it."""

    address: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Group:
    """A `Group` holds pictures under one small heading."""

    title: str
    pictures: list[Picture]


def first_screen(evaluation: Evaluation) -> list[Picture]:
    """Return where the scores lie, who wins where, and how many genes are called, of the first predictions."""
    return [_places(evaluation), _winners(evaluation), _called(evaluation)]


def _places(evaluation: Evaluation) -> Picture:
    """Return the headline metrics between control cells and split halves."""
    table, shown = evaluation.normalised(), _shown(evaluation)
    zero, one = (evaluation.table.loc[arm] for arm in (CONTROL_CELLS, SPLIT_HALVES))
    rows, said = [], []
    for metric in headline():
        name, best = metric.name, evaluation.best_baseline(metric.name)
        marks = []
        for arm in shown:
            ends = (evaluation.intervals.loc[(arm, name)] - zero[name]) / (one[name] - zero[name])
            marks.append((float(ends.min()), float(table.loc[arm, name]), float(ends.max())))  # type: ignore[arg-type]
        baseline = float(table.loc[best, name])  # type: ignore[arg-type]
        rows.append(pictures.Place(name, bool(cannot_tell(evaluation, metric)), marks, baseline))
        shares = ", ".join(f"{arm} {signed(value, 2)}" for arm, (_, value, _) in zip(shown, marks, strict=True))
        said.append(f"{name} best baseline {signed(baseline, 2)}, {shares}")
    return Picture(
        pictures.places(rows, shown, ("control\ncells", "split\nhalves")),
        f"Share of the way from control cells (0) to split halves (1): {'; '.join(said)}.",
        "Scores between the control cells and one half of the observed cells against the other. Grey metrics tell "
        "nothing on this screen.",
    )


def _winners(evaluation: Evaluation) -> Picture:
    """Return the first metric of strata, condition by condition, against the best baseline."""
    placed, shown = evaluation.placed, _shown(evaluation)
    baseline = evaluation.best_baseline(METRIC)
    scores = evaluation.per_perturbation.pivot(index=["context", "perturbation"], columns="arm", values=METRIC)
    scores = scores.reindex(placed.index)
    ahead = scores[shown[0]] > scores[baseline]
    parts = [
        f"{int(ahead[mask].sum())} of {int(mask.sum())} {name}"
        for name in DIFFICULTIES
        if (mask := placed["difficulty"] == name).any()
    ]
    said = f"{shown[0]} is ahead in {int(ahead.sum())} of {len(ahead)} conditions: {', '.join(parts)}."
    return Picture(
        pictures.winners(
            scores[baseline].tolist(),
            {arm: scores[arm].tolist() for arm in shown},
            placed["strength"].eq("strong").tolist(),
            METRIC,
        ),
        f"{METRIC} of each condition against that of {baseline}. {said}",
        f"A point is a condition; the best baseline is “{baseline}”. {said}",
    )


def _called(evaluation: Evaluation) -> Picture:
    """Return the numbers of called genes, condition by condition."""
    shown = _shown(evaluation)
    by_arm = {arm: rows for arm, rows in evaluation.per_perturbation.groupby("arm") if arm in shown}
    means = {arm: de_counts(evaluation, arm, separator=" predicted and ") for arm in shown}
    said = "; ".join(f"{arm} {text} observed" for arm, text in means.items())
    return Picture(
        pictures.called(
            by_arm[shown[0]]["n_de_observed"].tolist(), {arm: by_arm[arm]["n_de_predicted"].tolist() for arm in shown}
        ),
        f"Predicted against observed numbers of DE genes, a point a condition. Means: {said}.",
        f"Genes called differentially expressed. Means: {said}.",
    )


def choose(evaluation: Evaluation, each: int) -> dict[str, list[Condition]]:
    """Return the conditions with the worst, median and best PDCorr of the first prediction, `each` so many.

    Among the strong effects where there are enough, because the order of weak ones is noise. All of them stand under
    one name where there are not more than that in total.
    """
    scores = evaluation.per_perturbation
    mine = pd.DataFrame(scores[scores["arm"] == evaluation.predictions[0]])
    strong = pd.DataFrame(mine[mine["n_de_observed"] >= STRONG_EFFECT])
    mine = strong if len(strong) >= 3 * each else mine
    ordered = mine.sort_values("PDCorr", kind="stable", na_position="first")
    conditions = list(zip(ordered["context"], ordered["perturbation"], strict=True))
    if len(conditions) <= 3 * each:
        return {"from worst to best": conditions}
    middle = (len(conditions) - each) // 2
    return {"worst": conditions[:each], "median": conditions[middle : middle + each], "best": conditions[-each:]}


def shifts(evaluation: Evaluation) -> list[Group]:
    """Return scatters of predicted and observed shifts."""
    responses, several = evaluation.profiles.responses, len(_shown(evaluation)) > 1
    correlations = evaluation.per_perturbation.set_index(["arm", "context", "perturbation"])["PDCorr"]
    groups = []
    for title, conditions in choose(evaluation, SHIFTS_EACH).items():
        for arm in _shown(evaluation):
            drawn = []
            for condition in conditions:
                name = _name(evaluation, condition)
                correlation = float(correlations.loc[(arm, *condition)])
                address = pictures.shift(responses[arm][condition], responses[OBSERVED][condition], name, correlation)
                drawn.append(Picture(address, f"{arm}: predicted against observed shift of {name}, {correlation:.2f}"))
            groups.append(Group(f"{title}, {arm}" if several else title, drawn))
    return groups


def volcanoes(evaluation: Evaluation) -> list[Group]:
    """Return the tests of one worst, median and best condition."""
    responses, several = evaluation.profiles.responses, len(_shown(evaluation)) > 1
    groups = []
    for title, condition in _one_each(evaluation).items():
        name, drawn = _name(evaluation, condition), []
        for arm in _shown(evaluation):
            shown = f"{name}, {arm}" if several else name
            address = pictures.volcano(responses[arm][condition], responses[OBSERVED][condition], shown)
            alt = f"{arm}: fold changes and false discovery rates of {name}, observed and predicted"
            drawn.append(Picture(address, alt))
        groups.append(Group(title, drawn))
    return groups


def overlaps(evaluation: Evaluation) -> list[Group]:
    """Return bars of called genes, for the conditions with most observed DE genes."""
    responses = evaluation.profiles.responses
    observed = responses[OBSERVED]
    order = sorted(observed, key=lambda condition: -int(observed[condition].significant.sum()))[:MOST_OVERLAPS]

    def bars(arm: str) -> list[Picture]:
        rows = [(_name(evaluation, c), responses[arm][c], observed[c]) for c in order]
        alt = f"{arm}: genes called on both sides, missed, and called without being observed"
        return [Picture(pictures.overlaps(rows), alt)]

    return _by_arm(evaluation, bars)


def maps(evaluation: Evaluation) -> list[Group]:
    """Return heat maps of distances, for the contexts with most perturbations."""
    scored = evaluation.settings["scored"]
    contexts = sorted((c for c in scored if len(scored[c]) > 1), key=lambda c: -len(scored[c]))[:MOST_MAPS]
    responses = evaluation.profiles.responses
    groups = []
    for context in contexts:
        names = _spread(scored[context], LARGEST_MAP)
        some = "" if len(names) == len(scored[context]) else f", {len(names)} of {len(scored[context])}"
        drawn = []
        for arm in _shown(evaluation):
            predicted, observed = ([responses[side][context, name] for name in names] for side in (arm, OBSERVED))
            address = pictures.distances(names, predicted, observed, f"{arm}, {context}{some}")
            drawn.append(Picture(address, f"{arm} in {context}: distance of every predicted to every observed shift"))
        groups.append(Group("", drawn))
    return groups


def populations(evaluation: Evaluation) -> list[Group]:
    """Return the sizes of cells of all arms, and zeros and variances of every gene."""
    profiles = evaluation.profiles
    zeros, variances = profiles.zeros, profiles.variances
    rows = [
        (arm, (profiles.depth[arm], profiles.detected[arm]), arm == OBSERVED or arm in evaluation.predictions)
        for arm in (OBSERVED, *evaluation.arms)
    ]

    def genes(arm: str) -> list[Picture]:
        return [
            Picture(
                pictures.genewise(zeros[arm], zeros[OBSERVED], "fraction of zeros", 1.0),
                f"{arm}: fraction of zeros of every gene, predicted against observed",
            ),
            Picture(
                pictures.genewise(variances[arm], variances[OBSERVED], "variance"),
                f"{arm}: variance of every gene, predicted against observed",
            ),
        ]

    sizes = Picture(pictures.sizes(rows), "Normalised counts and expressed genes of the cells of all arms")
    return [Group("", [sizes]), *_by_arm(evaluation, genes)]


def clouds(evaluation: Evaluation) -> Picture:
    """Return the principal components of one condition."""
    return Picture(
        pictures.clouds(evaluation.profiles.components, _shown(evaluation)),
        "Principal components of control, observed and predicted cells",
    )


def cloud_name(evaluation: Evaluation) -> str:
    """Return the condition of `clouds`."""
    return _name(evaluation, evaluation.profiles.components.condition)


def _shown(evaluation: Evaluation) -> list[str]:
    return evaluation.predictions[:MOST_PREDICTIONS]


def _by_arm(evaluation: Evaluation, draw: Callable[[str], list[Picture]]) -> list[Group]:
    """Return the pictures of each prediction, under its name where there are several."""
    shown = _shown(evaluation)
    return [Group(arm if len(shown) > 1 else "", draw(arm)) for arm in shown]


def _one_each(evaluation: Evaluation) -> dict[str, Condition]:
    chosen = choose(evaluation, 1)
    if "median" in chosen:
        return {title: conditions[0] for title, conditions in chosen.items()}
    (conditions,) = chosen.values()
    titles = {1: ("",), 2: ("worst", "best"), 3: ("worst", "median", "best")}[len(conditions)]
    return dict(zip(titles, conditions, strict=True))


def _name(evaluation: Evaluation, condition: Condition) -> str:
    """Return the perturbation, with its context where there are several."""
    context, perturbation = condition
    return perturbation if len(evaluation.settings["scored"]) == 1 else f"{perturbation}, {context}"


def _spread(names: Sequence[str], most: int) -> list[str]:
    """Return at most `most` names, evenly from all."""
    places = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))
    return [names[int(place)] for place in places]
