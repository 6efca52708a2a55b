"""The folders of the three public benchmarks: their READMEs' commands, on simulated screens with the same columns."""

import json
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from bionemo.scale.config.overrides import overridden
from bionemo.scale.config.presets import PRETRAINING
from bionemo.screens.protocol import find_protocol

ROOT = Path(__file__).parents[1] / "recipes"
BENCHMARKS = {
    "pretrain_tahoe100m": "tahoe100m",
    "pretrain_parse10m_pbmc": "parse10m-pbmc",
    "pretrain_replogle_nadig": "replogle-nadig",
}
# A model and a training of seconds, after what the README says; on a CPU.
SHORT = (
    "model.hidden_size=16 model.num_layers=1 model.num_attention_heads=2 model.num_query_groups=1 "
    "model.ffn_hidden_size=32 model.gene_modules=2 model.gene_module_size=8 training.max_steps=3 "
    "training.warmup_steps=1 training.sets_per_batch=4 training.cells_per_set=8 compute.devices=1 "
    "compute.precision=fp32"
)
TENTH_OF_AN_H100 = 0.1 * 0.989e15
SHORTEST_STEP = 0.05


def commands(folder: str) -> list[str]:
    """The bash blocks of a README."""
    return re.findall(r"```bash\n(.*?)```", (ROOT / folder / "README.md").read_text(), re.DOTALL)


def overrides(folder: str) -> list[str]:
    lines = (ROOT / folder / "overrides.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def perturbations(obs, protocol, *, listed):
    """The simulated labels as the benchmark's: some of its held-out ones, then others that train."""
    rules = find_protocol(protocol)
    simulated = sorted(set(obs["perturbation"]) - {"control"})
    held_out = [*sorted(rules.held_out.val)[: listed // 4], *sorted(rules.held_out.test)][:listed]
    names = dict(zip(simulated, [*held_out, *simulated], strict=False))
    return obs["perturbation"].map({**names, "control": rules.control})


def tahoe(obs):
    lines = [*find_protocol("tahoe100m").held_out.labels, "CVCL_0023", "CVCL_0069"]
    obs["drugname_drugconc"] = perturbations(obs, "tahoe100m", listed=50)
    obs["cell_line"] = obs["context"].map(dict(zip(sorted(set(obs["context"])), lines, strict=True)))
    # A treatment is on one plate, the vehicle on both.
    other = (obs["perturbation"] > "perturbation_30") | (obs["perturbation"].eq("control") & (np.arange(len(obs)) % 2))
    obs["plate"] = np.where(other, "plate2", "plate1")
    return {f"plates/{plate}.h5ad": obs["plate"] == plate for plate in ("plate1", "plate2")}


def parse(obs):
    donors = ("Donor1", "Donor4", "Donor9", "Donor12", "Donor2", "Donor3")
    obs["donor"] = obs["context"].map(dict(zip(sorted(set(obs["context"])), donors, strict=True)))
    obs["cell_type"] = "CD14+ Mono"
    obs["cytokine"] = perturbations(obs, "parse10m-pbmc", listed=66)
    return {"pbmc.h5ad": obs["donor"] != ""}


def replogle(obs):
    obs["cell_line"] = obs["context"].map({"context_1": "hepg2", "context_2": "k562"})
    obs["gene"] = perturbations(obs, "replogle-nadig", listed=728)
    obs["gem_group"] = obs["batch"].str.removeprefix("batch_").astype(int)
    return {f"lines/{line}.h5ad": obs["cell_line"] == line for line in ("hepg2", "k562")}


SCREENS = {
    "pretrain_tahoe100m": (tahoe, {"contexts": 7, "perturbations": 60, "cells": 2100, "batches": 1}),
    "pretrain_parse10m_pbmc": (parse, {"contexts": 6, "perturbations": 70, "cells": 2200, "batches": 1}),
    "pretrain_replogle_nadig": (replogle, {"contexts": 2, "perturbations": 740, "cells": 4500, "batches": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", BENCHMARKS)
def test_the_commands_of_the_readme_run(folder, tmp_path, command, environment):
    relabel, size = SCREENS[folder]
    command("simulate", tmp_path / "s.h5ad", "--genes", 60, *(str(x) for k, v in size.items() for x in (f"--{k}", v)))
    screen = ad.read_h5ad(tmp_path / "s.h5ad")
    obs = screen.obs.astype(str)
    files = relabel(obs)
    screen.obs = obs.drop(columns=["context", "perturbation", "batch"])
    for name, chosen in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        screen[chosen.to_numpy()].write_h5ad(tmp_path / name)
    shim = tmp_path / "bin" / "bionemo-scale"
    shim.parent.mkdir()
    shim.write_text(
        f'#!/bin/sh\n[ "$1" = pretrain ] && set -- "$@" {SHORT}\nexec {sys.executable} -m bionemo.scale.cli "$@"\n'
    )
    shim.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands(folder)[0]],
        env={
            **environment,
            "PATH": f"{shim.parent}:{environment['PATH']}",
            "recipes": str(ROOT),
            "experiments": str(ROOT.with_name("experiments")),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    settings = json.loads((tmp_path / "report" / "metrics.json").read_text())["settings"]
    protocol = find_protocol(BENCHMARKS[folder])
    assert settings["held_out"]
    assert all(protocol.holds_out(context) for context, _ in settings["held_out"])
    # All of the protocol but its 2,000 genes, and what the small screen of Tahoe lacks of its list.
    departures = [text for text in settings["protocol"]["departures"] if "genes" not in text]
    lacking = ["739 of 789 listed perturbations have no cells in a held-out context"]
    assert departures == (lacking if folder == "pretrain_tahoe100m" else []), departures


@pytest.mark.parametrize("folder", BENCHMARKS)
def test_recipe_and_protocol_agree(folder):
    name = BENCHMARKS[folder]
    rules = find_protocol(name)
    text = (ROOT / folder / "README.md").read_text()
    for names in (rules.held_out.val, rules.held_out.test):
        assert re.search(rf"\b{len(names)}\b", text)
    assert set(re.findall(r"--protocol (\S+)", text)) == {name}
    if "prepare " in text and f"--protocol {name} --split split.toml --store" not in text:
        for option, value in (
            ("perturbation-key", rules.perturbation_key), ("control", rules.control), ("context-key", rules.context_key)
        ):  # fmt: skip
            assert f"--{option} {value}" in text


@pytest.mark.parametrize("folder", BENCHMARKS)
def test_the_overrides_are_settings_and_the_cost_follows_from_them(folder):
    from bionemo.scale.model.flops import training_flops

    text = (ROOT / folder / "README.md").read_text()
    (recipe,) = set(re.findall(r"--recipe (\S+)", text))
    settings = overridden(PRETRAINING[recipe], overrides(folder))
    model, compute, training = (settings[section] for section in ("model", "compute", "training"))
    flops = training_flops(model, compute, 2000, training.sets_per_batch, training.cells_per_set)
    assert f"{flops:.1e}".replace("e+", "e") in text
    steps, gpus = re.search(r"([\d,]+) steps on (\d+|one) H100", text).groups()
    assert int(steps.replace(",", "")) == training.max_steps
    gpus = 1 if gpus == "one" else int(gpus)
    hours = training.max_steps * max(SHORTEST_STEP, flops / TENTH_OF_AN_H100) / 3600 * gpus
    assert float(re.search(r"([\d.]+) GPU hours", text)[1]) == pytest.approx(hours, rel=0.05)
    assert (
        f"{training.sets_per_batch * training.cells_per_set * gpus:,}" in (ROOT / folder / "overrides.txt").read_text()
    )


@pytest.mark.slow
def test_your_own_screen_becomes_a_report_and_the_same_command_goes_on(workshop, tmp_path, environment):
    given = {"SCREEN": str(workshop / "screen.h5ad"), "OUT": str(tmp_path / "out")}
    recipe = ROOT / "your_screen"
    command = [recipe / "run.sh", "training.max_steps=4", "training.warmup_steps=1", "training.sets_per_batch=2"]
    for _ in range(2):
        done = subprocess.run(
            command, env={**environment, **given, "SPLIT": str(recipe / "split.toml")}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert (tmp_path / "out" / "report" / "report.html").stat().st_size > 10_000
