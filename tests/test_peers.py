"""Other projects' models beside ours: what a peer may see, what is run again, and what a failure leaves."""

import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from bionemo.screens.controls import ControlRole, ControlRoles
from bionemo.screens.simulation import simulate
from experiments.peers import run as peers
from experiments.peers import task as tasks
from experiments.real_screens.run import Fold
from experiments.real_screens.summary import METRICS, START
from experiments.real_screens.summary import TRANSFERRED as MEAN
from experiments.screens import Screen

COLUMNS = {"perturbation_key": "perturbation", "control": "control", "context_key": "context"}
SPLIT = """\
[fewshot.context_1]
val = ["perturbation_1"]
test = ["perturbation_2", "perturbation_5"]
"""
PEER = """\
import json
from pathlib import Path

REQUIREMENTS = ()
TRIALS = [{"share": -1.0}, {"share": 1.0}, {"share": 0.0}]

def predict(cells, wanted, seed, settings):
    # Each control cell, moved by a share of what the perturbation does elsewhere.
    import numpy as np

    def mean(label):
        return np.mean([values[(obs.context == c) & (obs.perturbation == label)].mean(0) for c in shown], 0)

    with Path(__file__).with_suffix(".jsonl").open("a") as log:
        called = {"seen": list(cells.obs_names), "wanted": wanted.to_dict("list"), "seed": seed, "settings": settings}
        log.write(json.dumps(called) + "\\n")
    values, obs, control = cells.X.toarray(), cells.obs, cells.uns["control"]
    made = []
    for asked in wanted.itertuples():
        shown = sorted(set(obs.context[obs.perturbation == asked.perturbation]))
        start = values[(obs.context == asked.context) & (obs.perturbation == control)]
        rows = np.random.default_rng(seed).choice(len(start), asked.cells)
        made.append(start[rows] + settings["share"] * (mean(asked.perturbation) - mean(control)))
    return np.concatenate(made)
"""
BROKEN = """\
REQUIREMENTS = ()
TRIALS = [{}, {}, {}]

def predict(cells, wanted, seed, settings):
    raise RuntimeError("no such attribute")
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen")
    simulate(folder / "made.h5ad", cells=1_500, genes=60, contexts=3, perturbations=5, batches=1, progress=False)
    (folder / "split.toml").write_text(SPLIT)
    return folder


@pytest.fixture
def peers_and_fold(simulated, tmp_path, monkeypatch):
    """A folder with two peers, one of which fails, and a fold of a small screen in place of the real ones."""
    monkeypatch.setenv("SCALE_SCREENS", str(simulated))
    screen = Screen(name="made", split=simulated / "split.toml", columns=COLUMNS, file="made.h5ad")
    monkeypatch.setattr(peers, "folds", lambda out: [Fold("made", "simulated", screen)])
    for name, text in (("moved", PEER), ("broken", BROKEN)):
        (tmp_path / f"train_{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def workshop(peers_and_fold, monkeypatch):
    """The same, with control cells in place of the linear start."""
    monkeypatch.setattr(peers, "apart", unmoved)
    return peers_and_fold


def unmoved(function, fold, out, seed) -> bool:
    """Write control cells in place of the linear start, whose training takes longer than all tests of this file."""
    task = tasks.Cells.of(fold.screen, out).task("test", seed)
    obs = task.cells.obs
    rows = np.flatnonzero((obs["context"] == "context_1") & (obs["perturbation"] == "control"))
    values = task.cells.X[np.resize(rows, task.wanted["cells"].sum())].toarray()
    file = out / "starts" / f"{fold.name}-seed_{seed}" / "predicted.h5ad"
    file.parent.mkdir(parents=True)
    task.prediction(values).write_h5ad(file)
    return True


@pytest.fixture
def unscored(peers_and_fold, monkeypatch):
    """The same, with made-up scores in place of those of the evaluation."""

    def canned(fold, jobs, out, seeds, step) -> pd.DataFrame:
        arms = [(START, "prediction"), (MEAN, "baseline"), ("split halves", "ceiling")]
        arms += [(job.peer.name, "prediction") for job in jobs]
        own = {"group": fold.group, "fold": fold.name, "controls": "independent", "context": "c", "perturbation": "p"}
        scores = dict.fromkeys(METRICS, 0.5)
        return pd.DataFrame([own | scores | {"arm": arm, "kind": kind, "seed": 0} for arm, kind in arms])

    monkeypatch.setattr(peers, "_score", canned)
    return peers_and_fold


def start(workshop, *options: str, names: str = "moved") -> int:
    files = ",".join(str(workshop / f"train_{name}.py") for name in names.split(","))
    own = ("--screens", "simulated", "--out", str(workshop / "out"), "--cache", str(workshop / "cache"))
    return peers.main(["--peer", files, *own, "--seeds", "2", "--trials", "2", *options])


def calls(workshop) -> list[dict]:
    return [json.loads(line) for line in (workshop / "train_moved.jsonl").read_text().splitlines()]


def test_a_peer_is_tuned_predicts_and_is_scored(workshop, simulated, capsys):
    assert start(workshop) == 0
    done = calls(workshop)
    conditions = [sorted(zip(call["wanted"]["context"], call["wanted"]["perturbation"], strict=True)) for call in done]
    tested = [("context_1", "perturbation_2"), ("context_1", "perturbation_5")]
    assert conditions == [[("context_1", "perturbation_1")]] * 2 + [tested] * 2
    # Settings that move cells the wrong way are not chosen.
    assert [call["settings"]["share"] for call in done] == [-1, 1, 1, 1]
    assert [call["seed"] for call in done] == [0, 0, 0, 1]
    table = capsys.readouterr().out
    assert "**simulated**: 2 conditions in 1 folds, 2 seeds" in table
    assert "|  | linear start alone | moved | best simple baseline | split halves |" in table
    report = json.loads((workshop / "out" / "reports" / "made" / "metrics.json").read_text())
    assert report["arms"]["moved"]["metrics"]["PDCorr"] > report["arms"]["control cells"]["metrics"]["PDCorr"] + 0.1
    assert report["settings"]["protocol"]["strict"] is True

    observed = ad.read_h5ad(simulated / "made.h5ad").obs
    for call in done:
        seen = observed.loc[call["seen"]]
        hidden = (seen["context"] == "context_1") & seen["perturbation"].isin([f"perturbation_{n}" for n in (1, 2, 5)])
        assert not hidden.any()
        start_cells = seen.index[(seen["context"] == "context_1") & (seen["perturbation"] == "control")]
        assert ControlRoles(rotation=call["seed"]).has(start_cells, ControlRole.INPUT).all()


def test_what_is_done_is_not_done_again(unscored, capsys):
    assert start(unscored) == 0
    done = calls(unscored)
    assert len(done) == 4
    assert start(unscored) == 0
    assert calls(unscored) == done
    # One more seed, and one more setting, which is not the best.
    assert start(unscored, "--seeds", "3", "--trials", "3") == 0
    assert [(call["settings"]["share"], call["seed"]) for call in calls(unscored)[len(done) :]] == [(0, 0), (1, 2)]
    (unscored / "train_moved.py").write_text(PEER.replace('"share": 1.0', '"share": 2.0'))
    assert start(unscored) == 2
    assert "trial_1.json was made with other settings: name another --out" in capsys.readouterr().err


def test_predictions_do_not_depend_on_what_a_peer_must_not_see(workshop, simulated, monkeypatch):
    screen = peers.folds(workshop)[0].screen
    before = [
        tasks.Cells.of(screen, workshop / "first").task(part, seed) for part in ("val", "test") for seed in (0, 1)
    ]
    observed = ad.read_h5ad(simulated / "made.h5ad")
    here, label = observed.obs["context"] == "context_1", observed.obs["perturbation"]
    for task, (part, seed) in zip(before, [("val", 0), ("val", 1), ("test", 0), ("test", 1)], strict=True):
        other = observed.copy()
        is_input = ControlRoles(rotation=seed).has(observed.obs_names, ControlRole.INPUT)
        hidden = here & (label.isin([f"perturbation_{n}" for n in (1, 2, 5)]) | ((label == "control") & ~is_input))
        other.X[hidden.to_numpy().nonzero()[0]] = 7.0
        folder = workshop / f"{part}_{seed}"
        folder.mkdir()
        other.write_h5ad(folder / "made.h5ad")
        monkeypatch.setenv("SCALE_SCREENS", str(folder))
        after = tasks.Cells.of(screen, folder).task(part, seed)
        pd.testing.assert_frame_equal(after.cells.obs, task.cells.obs)
        np.testing.assert_array_equal(after.cells.X.toarray(), task.cells.X.toarray())


def test_a_held_out_condition_that_reaches_a_peer_is_refused(workshop, monkeypatch, capsys):
    cells_of = tasks.Cells.task

    def leaking(self, part, seed):
        return replace(cells_of(self, part, seed), cells=self.table)

    monkeypatch.setattr(tasks.Cells, "task", leaking)
    assert start(workshop) == 2
    assert "was trained on context_1 / perturbation_1" in capsys.readouterr().err


def test_a_peer_that_fails_is_one_sentence_and_the_others_report(unscored, capsys):
    assert start(unscored, names="broken,moved") == 1
    printed = capsys.readouterr().out
    assert "broken stopped before the end: RuntimeError: no such attribute." in printed
    assert "|  | linear start alone | moved | best simple baseline | split halves |" in printed
    assert json.loads((unscored / "out" / "results.json").read_text())["failed"].keys() == {"broken"}
    assert start(unscored, names="broken") == 2
    assert "error: nothing was measured: broken: RuntimeError: no such attribute" in capsys.readouterr().err


@pytest.mark.slow
def test_the_linear_start_stands_beside_the_peers(peers_and_fold):
    assert start(peers_and_fold, "--seeds", "1", "--trials", "1") == 0
    report = json.loads((peers_and_fold / "out" / "reports" / "made" / "metrics.json").read_text())
    found = {arm: report["arms"][arm]["metrics"]["PDCorr"] for arm in ("linear start alone", "control cells")}
    assert found["linear start alone"] > found["control cells"] + 0.1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import no_such_package\n" + BROKEN, "import a peer's packages inside of predict"),
        ("REQUIREMENTS = ()\n", "it needs REQUIREMENTS, TRIALS and predict"),
        (BROKEN.replace("{}, {}, {}", "{}"), "--trials is 2, but train_broken.py lists 1 settings"),
    ],
    ids=["packages", "parts", "trials"],
)
def test_a_file_that_is_no_peer_is_named(workshop, capsys, text, why):
    (workshop / "train_broken.py").write_text(text)
    assert start(workshop, names="broken") == 2
    assert why in capsys.readouterr().err


def test_a_peer_or_screen_that_is_not_there_is_named(tmp_path, capsys):
    assert peers.main(["--peer", "biolort", "--out", str(tmp_path)]) == 2
    assert "there is no peer biolort: did you mean 'biolord'" in capsys.readouterr().err
    assert peers.main(["--peer", "biolord", "--screens", "thp2", "--out", str(tmp_path)]) == 2
    assert "there is no screen thp2: did you mean 'thp1'" in capsys.readouterr().err


@pytest.mark.parametrize(("values", "why"), [(np.zeros((3, 60)), "of shape"), (np.nan, "not finite")])
def test_what_is_no_prediction_is_said(workshop, values, why):
    task = tasks.Cells.of(peers.folds(workshop)[0].screen, workshop).task("test", 0)
    cells = int(task.wanted["cells"].sum())
    with pytest.raises(tasks.ArmError, match=why):
        task.prediction(values if isinstance(values, np.ndarray) else np.full((cells, 60), values))
