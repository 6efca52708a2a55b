"""The recipes that measure: what they run, what they repeat, and the arithmetic of their tables."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bionemo.scale.config.overrides import overridden
from bionemo.scale.config.presets import PRETRAINING
from bionemo.scale.runs.directory import RunRecord
from bionemo.scale.runs.sealed_json import write_sealed
from experiments.ablations import run as ablations
from experiments.ablations.job import row_file
from experiments.ablations.screens import SCREENS
from experiments.ablations.summary import differences, markdown, mean_and_interval, write_summary
from experiments.ablations.variants import DEFAULT, VARIANTS, settings
from experiments.real_screens import run as real_screens
from experiments.real_screens import summary
from experiments.screens import FOLDER_VARIABLE, apart, with_solver_steps

ROOT = Path(__file__).parents[1]
METRICS = ("MSE", "MAE", "PDCorr", "DEOver", "DEPrec", "LFCSpear", "DirAgr")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_is_a_configuration_and_one_choice_away_from_the_default(variant):
    run, default = (overridden(PRETRAINING["scale_tiny"], settings(one, 2, 300)) for one in (variant, VARIANTS[0]))
    assert run["training"].seed == 2
    assert run["training"].max_steps == (300 if variant.trained else 25)
    assert (run == default) is (variant.solver_steps > 1 or variant.name == DEFAULT)


def test_screens_mark_validation_conditions_that_choose_the_checkpoint():
    from bionemo.screens import Split

    for screen in SCREENS.values():
        held_out = Split.from_toml(screen.split).to_dict()["fewshot"].values()
        assert {"val", "test"} <= {part for parts in held_out for part in parts}


IN_THREADS = """
import os, torch
torch.set_num_threads(2)
values = torch.ones(1_000_000)
assert (values + values).sum() == 2_000_000
assert os.environ["SCALE_SCREENS"] == folder
"""


def test_a_process_apart_may_use_threads_after_this_one_has(monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, "first")
    threads = torch.get_num_threads()
    exec(IN_THREADS, {"folder": "first"})
    torch.set_num_threads(threads)
    assert apart(exec, IN_THREADS, {"folder": "first"})
    monkeypatch.setenv(FOLDER_VARIABLE, "second")
    assert apart(exec, IN_THREADS, {"folder": "second"})
    assert not apart(exec, IN_THREADS, {"folder": "first"})


def canned(variant: str, seed: int, values: dict[str, float | None], overrides: list[str] | None = None) -> dict:
    conditions = [
        {"context": "A", "perturbation": name} | dict.fromkeys(METRICS, value) for name, value in values.items()
    ]
    row = {"screen": "papalexi", "variant": variant, "seed": seed, "overrides": overrides, "conditions": conditions}
    return row | {"metrics": dict.fromkeys(METRICS, 0.5), "beside": {"split halves": dict.fromkeys(METRICS, 0.75)}}


ROWS = [
    *(canned(DEFAULT, seed, {"p": 0.1 * seed, "q": 0.2, "r": None}) for seed in (0, 1)),
    *(canned("velocity", seed, {"r": 0.9, "q": 0.1, "p": 0.1 * seed - 0.3}) for seed in (0, 1)),
    canned("velocity", 2, {"p": 5.0, "q": 5.0, "r": 5.0}),
]


def test_differences_are_paired_by_seed_and_condition():
    found = differences(ROWS, "velocity", "PDCorr")
    np.testing.assert_allclose(found, [[-0.3, -0.1, np.nan]] * 2)
    mean, low, high = mean_and_interval(found)
    # Every draw of two conditions has a mean between the two.
    assert (mean, low, high) == (pytest.approx(-0.2), pytest.approx(-0.3), pytest.approx(-0.1))


def test_conditions_of_one_seed_alone_do_not_make_seeds_certain():
    rng = np.random.default_rng(0)
    over_seeds = rng.normal(size=(8, 1)) + np.zeros((1, 40))
    _, low, high = mean_and_interval(over_seeds)
    expected = 1.96 * over_seeds[:, 0].std() / 8**0.5
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    assert np.isnan(mean_and_interval(np.array([[0.3]]))[1:]).all()


def test_the_table_shows_differences_in_bold_where_the_interval_leaves_out_zero(tmp_path):
    table = markdown(ROWS)
    assert "**papalexi**, 2 seeds, 3 conditions" in table
    assert "| **−.200 (−.300 to −.100)** |" in table.split("| velocity ")[1]
    assert "| *split halves* | 0.750 |" in table
    write_summary(ROWS, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == ROWS
    assert "velocity" in (tmp_path / "plot.svg").read_text()


def test_a_finished_row_is_not_measured_again(tmp_path):
    asked = []

    def measure(out: Path, screen: str, seed: int, steps: int, names: list[str], done) -> int:
        asked.append((screen, seed, names))
        for name in names:
            if name == "velocity" and seed == 1:
                return 1
            variant = next(variant for variant in VARIANTS if variant.name == name)
            file = row_file(out, screen, name, seed)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(canned(name, seed, {"p": 0.0}, settings(variant, seed, steps))))
            done()
        return 0

    names = [DEFAULT, "velocity"]
    assert ablations.run_missing(tmp_path, ["papalexi"], names, 2, 100, 1, measure) == 1
    assert asked == [("papalexi", 0, names), ("papalexi", 1, names)]
    asked.clear()
    ablations.run_missing(tmp_path, ["papalexi"], names, 2, 100, 1, measure)
    assert asked == [("papalexi", 1, ["velocity"])]
    assert len(ablations.finished(tmp_path)) == 3
    with pytest.raises(ablations.InputError, match="made with other settings: name another --out"):
        ablations.run_missing(tmp_path, ["papalexi"], names, 2, 101, 1, measure)


def test_a_variant_or_screen_that_is_not_there_is_named(tmp_path, capsys):
    assert ablations.main(["--out", str(tmp_path), "--only", "no pooling"]) == 2
    assert "error: there is no variant 'no pooling': choose among default," in capsys.readouterr().err


def test_a_run_with_other_solver_steps_shares_its_weights(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "step=1").mkdir(parents=True)
    (run / "checkpoints" / "step=1" / "shard").touch()
    model = {"model": {"solver_steps": 1, "head": "residual"}}
    write_sealed(run / "run.json", {field.name: {} for field in fields(RunRecord)} | model)
    for _ in range(2):
        copy = with_solver_steps(run, 4)
    assert json.loads((copy / "run.json").read_text())["model"] == {"solver_steps": 4, "head": "residual"}
    assert json.loads((run / "run.json").read_text())["model"]["solver_steps"] == 1
    assert (copy / "checkpoints" / "step=1" / "shard").samefile(run / "checkpoints" / "step=1" / "shard")


def test_every_patient_and_cell_type_is_tested_once_and_others_choose(tmp_path):
    from bionemo.screens import Split

    tested: dict[str, list[str]] = {}
    for fold in real_screens.folds(tmp_path):
        contexts = Split.from_toml(fold.screen.split).to_dict()["fewshot"]
        parts = {part: {c for c, parts in contexts.items() if parts.get(part)} for part in ("val", "test")}
        assert bool(parts["val"]) is (fold.name != "papalexi")
        if fold.group in ("glioblastoma", "PBMC"):
            assert not parts["val"] & parts["test"]
        tested.setdefault(fold.group, []).extend(parts["test"])
    assert sorted(tested["glioblastoma"]) == sorted(real_screens.PATIENTS)
    assert sorted(tested["PBMC"]) == sorted(real_screens.CELL_TYPES)


def scores(fold: str, controls: str, scale: float) -> pd.DataFrame:
    arms = [
        *(("both", "prediction", seed, scale + seed) for seed in (-0.1, 0.1)),
        *(("linear start alone", "prediction", seed, 0.2) for seed in (-0.1, 0.1)),
        ("control mean + transferred delta", "baseline", 0, 0.3),
        ("control cells", "baseline", 0, None),
        ("split halves", "ceiling", 0, 0.9),
    ]
    rows = [
        {"group": "gbm", "fold": fold, "controls": controls, "arm": arm, "kind": kind, "seed": seed}
        | {"context": fold, "perturbation": perturbation}
        | dict.fromkeys(summary.METRICS, value)
        for arm, kind, seed, value in arms
        for perturbation in ("p", "q")
    ]
    return pd.DataFrame(rows)


def test_tables_over_folds(tmp_path):
    folds = {
        name: {"rows": pd.concat([scores(name, "independent", scale), scores(name, "shared", 0.8)]), "commands": []}
        for name, scale in (("A", 0.5), ("B", 0.7))
    }
    rows = pd.concat([fold["rows"] for fold in folds.values()])
    table = summary.markdown(rows, ["papalexi"])
    assert table.startswith("Not measured: papalexi.")
    assert "**gbm**: 4 conditions in 2 folds, 2 seeds" in table
    best = ".300 control mean + transferred delta"
    assert f"| PDCorr | .200 | .600 | {best} | .900 |" in table
    assert f"| PDCorr, shared controls | .200 | .800 | {best} | .900 |" in table
    assert "| B | .200 | .700 | .300 | .900 |" in table
    mean, low, high = summary.difference(rows[rows["controls"] == "independent"], "both", summary.BEST, "PDCorr")
    assert (mean, low < 0.25, high > 0.35) == (pytest.approx(0.3), True, True)
    summary.write_summary(folds, [], tmp_path)
    kept = json.loads((tmp_path / "results.json").read_text())
    means = summary.kept_means(kept).loc["gbm"]
    assert summary.headline(means, summary.arms_of(means.index.unique("arm"))) in table


@pytest.mark.parametrize(
    "command",
    sorted(
        set(
            re.findall(
                r"python (-m experiments\.\S+|experiments/\S+\.py)",
                "\n".join(readme.read_text() for readme in ROOT.glob("experiments/*/README.md")),
            )
        )
    ),
)
def test_the_commands_of_the_experiments_readmes_run(command, environment):
    done = subprocess.run(
        [sys.executable, *command.split(), "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, "usage: " in done.stdout) == (0, True), done.stderr
