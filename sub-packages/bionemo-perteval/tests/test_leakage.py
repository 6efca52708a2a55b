"""A model that has seen what it is scored on is refused by name."""

from dataclasses import dataclass, field
from html import escape

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from bionemo.perteval import evaluate
from bionemo.perteval.cli import by_name
from bionemo.perteval.inputs.keys import Keys
from bionemo.perteval.inputs.reading import CellFile
from bionemo.perteval.report.page import html
from bionemo.perteval.rules.leakage import TrainingRecord, check_leakage, read_pairs
from bionemo.perteval.rules.ruleset import Ruleset
from bionemo.screens import InputError
from bionemo.screens.protocol import find_protocol
from bionemo.screens.split import Split

SPLIT = Split.from_dict({"fewshot": {"A": {"val": ["v"], "test": ["t", "u"]}}, "zeroshot": {"Z": "test"}}, "x")
SEEN = frozenset({("A", "a"), ("A", "ctrl"), ("B", "t")})
CLEAN = TrainingRecord(conditions=SEEN, hvg_from="train", hvg_split=SPLIT.hash)


@dataclass
class _Screen:
    """As much of a `Screen` as a statement needs."""

    scored: dict
    rows: list
    genes: np.ndarray = field(default_factory=lambda: np.zeros(2000))

    def whole(self, conditions):
        """Return the conditions: nothing is divided here."""
        return list(conditions)


def _check(record=CLEAN, *, scored=(("A", "t"),), split=SPLIT, held_out=(("A", "u"), ("A", "v")), strict=False):
    return check_leakage(
        record, "pred.h5ad", scored=scored, held_out=held_out, control="ctrl", split=split, strict=strict
    )


def test_a_clean_record_passes_even_strictly():
    assert _check(strict=True) == []


@pytest.mark.parametrize(
    ("seen", "named"),
    [(("A", "t"), "A / t, which is"), (("A", "v"), "A / v, which is"), (("Z", "ctrl"), "Z / ctrl, which is")],
)
def test_a_held_out_condition_in_the_training_is_refused(seen, named):
    with pytest.raises(InputError, match=f"pred.h5ad was trained on {named}"):
        _check(TrainingRecord(conditions=SEEN | {seen}, hvg_from="train"))


def test_scoring_what_the_split_trains_on_is_refused():
    with pytest.raises(InputError, match="A / a, which the split trains on"):
        _check(scored=[("A", "a"), ("A", "t")])


def test_what_cannot_be_checked_is_said_and_refused_when_strict():
    notes = _check(TrainingRecord())
    assert "Leakage was not checked" in notes[0]
    assert "nothing says which cells chose the genes" in notes[1].lower()
    for record, match in (
        (TrainingRecord(), "--training-conditions"),
        (TrainingRecord(conditions=SEEN), "--hvg-from"),
    ):
        with pytest.raises(InputError, match=match):
            _check(record, strict=True)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (TrainingRecord(conditions=SEEN, hvg_from="all"), "chosen on all cells, the held-out ones included"),
        (TrainingRecord(conditions=SEEN, hvg_from="train", hvg_split="0"), "training cells of another split"),
    ],
)
def test_genes_chosen_on_held_out_cells(record, match):
    assert match in _check(record)[0]
    with pytest.raises(InputError, match=f"--strict was given, but .*{match}"):
        _check(record, strict=True)


def test_strict_refuses_validation_conditions_and_an_unknown_split():
    assert "may have chosen the checkpoint" in _check(scored=[("A", "v")])[0]
    with pytest.raises(InputError, match="predict only the test part"):
        _check(scored=[("A", "v")], strict=True)
    with pytest.raises(InputError, match="baselines might use one: give --split"):
        _check(split=None, held_out=(), strict=True)


def test_a_prediction_cannot_be_talked_out_of_its_record(tmp_path):
    cells = ad.AnnData(np.zeros((1, 1)))
    cells.uns["prediction"] = {"hvg_from": "all"}
    cells.uns["training_conditions"] = pd.DataFrame([("A", "t")], columns=["context", "perturbation"])
    (tmp_path / "pairs.csv").write_text("context,perturbation\nA,a\n")
    given, file = read_pairs(tmp_path / "pairs.csv", "--training-conditions"), CellFile(cells=cells, name="pred.h5ad")
    record = TrainingRecord.of(file, trained_on=given)
    assert record.conditions == {("A", "t"), ("A", "a")}
    assert record.hvg_from == "all"
    with pytest.raises(InputError, match="records hvg_from 'all', not 'train'"):
        TrainingRecord.of(file, hvg_from="train")
    cells.uns["training_conditions"] = "A/t"
    with pytest.raises(InputError, match="no table with the columns context and perturbation"):
        TrainingRecord.of(file)


def test_arguments_that_contradict_the_protocol_are_refused():
    rules = Ruleset(protocol=find_protocol("replogle-nadig"))
    given = dict.fromkeys(("perturbation_key", "context_key", "control", "target_sum", "layer"))
    assert rules.keys(given)["control"] == "non-targeting"
    with pytest.raises(InputError, match="--control NTC contradicts the protocol 'replogle-nadig'"):
        rules.keys({**given, "control": "NTC"})
    with pytest.raises(InputError, match="normalised to 1e\\+06 counts per cell"):
        rules.check_scale({"target_sum": 1e6}, "pred.h5ad")


def test_published_scores_stand_beside_only_the_whole_protocol():
    protocol = find_protocol("replogle-nadig")
    names = {"val": sorted(protocol.held_out.val), "test": sorted(protocol.held_out.test)}
    split = Split.from_dict({"fewshot": {"hepg2": names}}, "x")
    observed = [("hepg2", name) for name in ("non-targeting", *names["val"], *names["test"])]
    rules = Ruleset(protocol=protocol, split=split)
    keys = Keys(perturbation_key="g", context_key="c", control="x", target_sum=1e4, layer=None)

    def statement(rules, scored):
        return rules.statement(_Screen({"hepg2": scored}, observed), keys, {"pred.h5ad": "train"})

    whole = statement(rules, names["test"])
    assert (whole["hash"], whole["split_hash"], whole["departures"]) == (protocol.hash, split.hash, [])
    assert whole["published"][0]["scores"]["PDCorr"] == 0.909
    assert whole["published"][0]["not_comparable"] == ["MSE", "MAE"]
    partly = statement(rules, names["test"][1:])
    assert partly["published"] == []
    assert "1 of 624" in partly["departures"][0]
    other_genes = rules.statement(
        _Screen({"hepg2": names["test"]}, observed), keys, {"a": "all", "b": "train", "c": None}
    )
    assert other_genes["published"] == []
    assert other_genes["departures"] == [
        "the genes of a were chosen on all cells (hvg_from 'all'), and the protocol says 'train'",
        "nothing says which cells chose the genes of c; the protocol says 'train'",
    ]
    unnamed = statement(Ruleset(), names["test"])
    assert len(unnamed["hash"]) == 64
    assert unnamed["name"] is None


def test_evaluate_refuses_a_leak_before_it_scores(noisy, counts, tmp_path):
    split = tmp_path / "split.toml"
    split.write_text('[fewshot.A]\ntest = ["p1", "p2", "p3"]\n[fewshot.B]\ntest = ["p2"]\nval = ["p4"]\n')
    with pytest.raises(InputError, match="was trained on B / p4, which is scored or held out"):
        evaluate(noisy, counts, split=split, training_conditions=[("B", "p4")], progress=False)
    with pytest.raises(InputError, match="--strict was given, but nothing says what the model"):
        evaluate(noisy, counts, split=split, strict=True, progress=False)
    # The second entry of A must not take the place of the first, or a model that trained on p1 would pass.
    split.write_text(
        '[training]\nx = "train"\ny = "train"\n[fewshot."x.A"]\ntest = ["p1"]\n[fewshot."y.A"]\ntest = ["p2", "p3"]\n'
    )
    with pytest.raises(InputError, match="the context 'A' twice"):
        evaluate(noisy, counts, split=split, strict=True, training_conditions=[("A", "p1")], progress=False)
    with pytest.raises(InputError, match="contradicts the protocol 'replogle-nadig'"):
        evaluate(noisy, counts, protocol="replogle-nadig", control="ctrl", progress=False)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            {"training_conditions": [("B", "p44"), ("B", "p4")]},
            r"--training-conditions names B / p44, which was not observed \(1 such.*did you mean 'p4'",
        ),
        (
            {"training_conditions": {"state": [("BB", "p4")]}},
            r"names BB / p4, which was not observed .*did you mean 'B'",
        ),
        ({"held_out": [("C", "q1")]}, r"--held-out names C / q1, which was not observed .*did you mean 'p1'"),
        ({"hvg_from": {"stat": "train"}}, r"--hvg-from names 'stat', which is no prediction: did you mean 'state'"),
        ({"hvg_from": {"scale": "all"}}, "records hvg_from 'train', not 'all'"),
        ({"training_conditions": {"state": [("A", "p1")]}}, "The model of state: .* was trained on A / p1"),
    ],
)
def test_what_is_said_of_one_prediction_is_checked(noisy, counts, arguments, match):
    ours = noisy.copy()
    ours.uns["prediction"] = {**noisy.uns["prediction"], "hvg_from": "train"}
    with pytest.raises(InputError, match=match) as error:
        evaluate({"scale": ours, "state": noisy}, counts, progress=False, **arguments)
    assert "\n" not in str(error.value)


def test_every_prediction_has_its_own_training(noisy, counts, tmp_path):
    protocol = tmp_path / "mine.toml"
    protocol.write_text(
        'perturbation_key = "gene"\ncontrol = "ctrl"\ncontext_key = "line"\nhvg_from = "train"\n'
        '[fewshot.A]\ntest = ["p1", "p2", "p3"]\n[fewshot.B]\ntest = ["p2"]\n'
    )
    found = evaluate(
        {"scale": noisy, "state": noisy},
        counts,
        protocol=protocol,
        hvg_from={"scale": "train", "state": "given"},
        training_conditions={"scale": [("B", "p1")]},
        arms="main",
        threads=1,
        progress=False,
    )
    assert list(found.settings["hvg_from"].values()) == ["train", "given"]
    (departure,) = found.settings["protocol"]["departures"]
    assert departure.startswith("the genes of state")
    assert escape(departure) in html(found).replace("&#39;", "&#x27;")
    assert [note for note in found.notes if "Leakage was not checked" in note and "state" in note]
    assert not [note for note in found.notes if "Leakage was not checked" in note and "scale" in note]


def test_options_of_one_prediction_or_of_all(tmp_path):
    (tmp_path / "a=b.csv").write_text("context,perturbation\nA,a\n")
    path = str(tmp_path / "a=b.csv")
    assert by_name(None, "--hvg-from", str) is None
    assert by_name(["train"], "--hvg-from", str) == "train"
    assert by_name(["scale=train", "state=given"], "--hvg-from", str) == {"scale": "train", "state": "given"}

    def pairs(path):
        return read_pairs(path, "--training-conditions")

    assert by_name([path], "--training-conditions", pairs) == [("A", "a")]
    assert by_name([f"state={path}"], "--training-conditions", pairs) == {"state": [("A", "a")]}
    for given, match in ((["train", "state=all"], "'train' names no prediction"), (["a=all", "a=train"], "two things")):
        with pytest.raises(InputError, match=match):
            by_name(given, "--hvg-from", str)


def test_every_report_has_the_hash_of_its_rules(evaluation):
    stated = evaluation.settings["protocol"]
    assert stated["hash"] in html(evaluation)
    assert stated["name"] is None
    assert "Leakage was not checked" in " ".join(evaluation.notes)
