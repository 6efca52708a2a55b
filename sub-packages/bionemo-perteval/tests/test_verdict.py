"""The two sentences and the structure of the page."""

from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from bionemo.perteval.metrics.registry import headline
from bionemo.perteval.report.page import html
from bionemo.perteval.report.verdict import verdict

ALL = "the 7 metrics that tell anything here"


def _world(evaluation, scores, noise=None, ceiling=0.9):
    """An evaluation where generic baselines have 0.1, others 0.5, ceilings 0.9, and the prediction what is asked for.

    Errors are 1 less that; no check is raised, and nothing but `noise` is warned about.
    """
    frame = evaluation.per_perturbation.copy()
    for metric in headline():
        for arm, of in evaluation.arms.items():
            value = {"prediction": scores.get(metric.name, 0.5), "ceiling": ceiling}.get(
                of.kind, 0.1 if of.generic else 0.5
            )
            frame.loc[frame["arm"] == arm, metric.name] = value if metric.best == "high" else 1 - value
    frame["n_de_observed"] = 20
    world = replace(evaluation, per_perturbation=frame, shared=None, noise=noise or {})
    world.__dict__["flags"] = []
    return world


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"PDCorr": 0.7, "MSE": 0.6}, f"ahead of its best baseline in MSE and PDCorr and behind it in none, of {ALL}."),
        ({}, f"level with its best baselines: no difference is larger than its interval, of {ALL}."),
        ({"MAE": 0.2}, f"behind its best baseline in MAE and ahead of it in none, of {ALL}."),
        (
            {"DEOver": 0.7, "DirAgr": 0.6, "MAE": 0.2},
            f"ahead of its best baseline in DEOver and DirAgr and behind it in MAE, of {ALL}.",
        ),
    ],
)
def test_the_first_sentence_counts_the_metrics_by_their_intervals(evaluation, scores, said):
    first, second = verdict(_world(evaluation, scores), "prediction")
    assert first == f"prediction is {said}"
    assert second == "No check and no warning speaks against these scores."


def test_metrics_that_tell_nothing_are_not_counted(evaluation):
    first, _ = verdict(_world(evaluation, {"PDCorr": 0.7}, ceiling=0.1), "prediction")
    assert first.startswith("prediction cannot be told from its baselines: no metric tells a replicate from them")


def test_the_second_sentence_names_what_speaks_against_the_scores(evaluation):
    world = _world(evaluation, {}, noise={"A": 0.7})
    assert verdict(world, "prediction")[1] == "Against trusting it speaks shifts that are mostly noise; see below."
    caution = SimpleNamespace(name="zeros", kind="caution")
    world.__dict__["flags"] = [SimpleNamespace(arm="prediction", check=caution, raised=True)]
    said = "Against trusting it speak the check of zeros and shifts that are mostly noise; see below."
    assert verdict(world, "prediction")[1] == said
    invalid = SimpleNamespace(name="scale", kind="invalid")
    world.__dict__["flags"].append(SimpleNamespace(arm="prediction", check=invalid, raised=True))
    said = "These scores do not measure prediction: the check of scale calls them invalid."
    assert verdict(world, "prediction")[1] == said


class _Reader(HTMLParser):
    """Reads what a screen reader would: headings, pictures, tables and their heads."""

    def __init__(self):
        super().__init__()
        self.headings, self.heads, self.pictures, self.regions, self.open = [], [], [], [], []
        self.tables = self.captions = 0

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.open.append(tag)
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag == "th" and given["scope"] == "col":
            self.heads.append(given)
        if tag == "button":
            assert self.open[-2] == "th"
            self.heads[-1]["button"] = given["type"]
        if tag == "img":
            self.pictures.append(given["alt"])
        if given.get("role") == "region":
            self.regions.append(given)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


def test_the_page_is_usable_by_keyboard_and_screen_reader(evaluation):
    page = html(evaluation)
    read = _Reader()
    read.feed(page)
    assert read.headings[0] == 1
    assert read.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(read.headings, read.headings[1:], strict=False))
    assert all(head["aria-sort"] == "none" and head["button"] == "button" for head in read.heads)
    assert len(read.heads) > 50
    assert read.captions == read.tables - 1  # the settings are no table of numbers
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in read.regions)
    assert all(len(alt) > 20 for alt in read.pictures)
    assert '<html lang="en">' in page
    assert page.index('class="skip"') < page.index("<h1>") < page.index("<main>") < page.index('class="verdict"')
    assert page.index('class="three"') < page.index("<nav") < page.index("<table")


def test_the_first_screen_says_in_words_what_its_pictures_show(evaluation):
    page = html(evaluation)
    ahead = page[page.index('class="three"') : page.index("<nav")]
    assert ahead.count("<figcaption>") == 3
    assert "PDCorr best baseline" in ahead
    assert "of 4 conditions: " in ahead
    assert "predicted and" in ahead
