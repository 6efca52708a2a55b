"""Make the page of a score under the rules of the Virtual Cell Challenge 2026: a verdict, one picture, tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bionemo.perteval.metrics.challenge import MEMBERS, overview
from bionemo.perteval.report import pictures
from bionemo.perteval.report.figures import MOST_PREDICTIONS, Picture
from bionemo.perteval.report.page import render
from bionemo.perteval.report.sheets import Cell, Row, Sheet
from bionemo.perteval.report.text import counted, enumerated, signed

_MEANINGS = {
    "PDS": "It ranks the observed effect of each target among all observed effects, by how near they are to the "
    "predicted one (cosine); 1 says that the right one is always the nearest. Genes that any target names are left "
    "out.",
    "MSE": "It is the squared error of the mean profiles, less what the sampling of cells puts into it, over the "
    "squared effects. It is scaled to at least 0 and at most 1.",
    "fidelity": "It divides the number of genes that are called with the right sign by that of the called genes, or of "
    "those called of the observed cells where these are more.",
    "reach": "It takes the genes that are called of the observed cells in the order of the prediction's own tests, the "
    "surest first, as far as nine in ten have the right sign, and says how large a part of them that is.",
    "Jaccard": "It divides the number of genes that are called on both sides by that of genes called on either.",
    "LFC nMAE": "It is the mean absolute error of the log2 fold changes over their mean absolute size, among the genes "
    "that are called of the observed cells; a target with fewer than ten of them does not count.",
}


def html(members: pd.DataFrame, *, notes: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Return the page of members, one row an arm, context, seed and member, as `score_panels` has them."""
    table, scored = overview(members), settings["scored"]
    arms = [str(arm) for arm in table.index]
    return render(
        "challenge.html.j2",
        title=f"Virtual Cell Challenge 2026: {enumerated(arms)}",
        size=counted(sum(map(len, scored.values())), len(scored)),
        settings=settings,
        verdicts=[_verdict(arm, table.loc[arm]) for arm in arms],
        picture=_places(table),
        overview=_overview(table),
        points=[_points(arm, pd.DataFrame(members[members["arm"] == arm]), table.loc[arm]) for arm in arms],
        meanings=_MEANINGS,
        notes=notes,
    )


def _verdict(arm: str, scaled: pd.Series) -> tuple[str, str]:
    """Return two sentences: where the score lies, and in which members the prediction beats the mean response."""
    ahead = [head for head in MEMBERS.values() if scaled[head] > 0]
    behind = [head for head in MEMBERS.values() if scaled[head] < 0]
    missing = [head for head in MEMBERS.values() if scaled[head] != scaled[head]]
    if missing:
        standing = f"{arm} has no score, because {enumerated(missing)} {'has' if len(missing) == 1 else 'have'} none."
    else:
        standing = (
            f"{arm} has a score of {signed(float(scaled['score']), 3)}: 0 is the mean observed response, given to "
            f"every target, and 1 is one half of the observed cells against the other."
        )
    ends = [f"{word} {enumerated(heads)}" for word, heads in (("ahead in", ahead), ("behind in", behind)) if heads]
    return standing, f"Beside the mean response it is {' and '.join(ends) or 'ahead in nothing'}."


def _places(table: pd.DataFrame) -> Picture:
    """Draw the members of the first predictions between their two points."""
    shown = [str(arm) for arm in table.index[:MOST_PREDICTIONS]]
    rows = [
        pictures.Place(head, False, [(value, value, value) for value in map(float, table.loc[shown, head])])
        for head in table.columns
    ]
    said = "; ".join(
        f"{row.metric} {', '.join(f'{arm} {signed(at[1], 2)}' for arm, at in zip(shown, row.predictions, strict=True))}"
        for row in rows
    )
    return Picture(
        pictures.places(rows, shown, ("mean\nresponse", "split\nhalves")),
        f"Share of the way from the mean response (0) to split halves (1): {said}.",
        "Members between the mean observed response, given to every target, and one half of the observed cells against "
        "the other.",
    )


def _overview(table: pd.DataFrame) -> Sheet:
    rows = [
        Row(str(arm), [Cell(signed(float(value), 3)) for value in scaled], "prediction")
        for arm, scaled in table.iterrows()
    ]
    return Sheet("Scaled members and score", "arm", [f"{name} ↑" for name in table.columns], rows)


def _points(arm: str, members: pd.DataFrame, scaled: pd.Series) -> Sheet:
    """Return value and both points of each member, and of each context where there are several."""
    several = members["context"].nunique() > 1
    means = members.groupby(["member", "context"], sort=False)[["value", "zero", "one", "scaled"]].mean()
    rows = []
    for name, head in MEMBERS.items():
        of_member = means.loc[name] if name in means.index.get_level_values(0) else means.iloc[:0]
        values = [*of_member[["value", "zero", "one"]].mean(), scaled[head]]
        rows.append(Row(head, [Cell(signed(float(value), 4)) for value in values], "prediction" if several else ""))
        if several:
            rows += [
                Row(f"{head} in {context}", [Cell(signed(float(value), 4)) for value in of_context])
                for context, of_context in of_member.iterrows()
            ]
    return Sheet(f"Values and points of {arm}", "member", ["value", "0 point", "1 point", "scaled"], rows)
