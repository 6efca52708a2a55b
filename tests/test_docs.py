"""The pages keep up with the code: their links, their commands, their settings and the files that they name."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import anndata as ad
import pytest
import typer

from bionemo.bench import cli as bench
from bionemo.perteval import cli as perteval
from bionemo.scale.cli import app as scale
from bionemo.scale.config.compute import ComputeConfig
from bionemo.scale.config.model import ModelConfig
from bionemo.scale.config.training import TrainingConfig
from bionemo.scale.config.tuning import TuningConfig
from bionemo.screens.simulation import simulate
from experiments.real_screens.summary import arms_of, headline, kept_means

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
PAGES = [ROOT / name for name in TRACKED if name.endswith(".md") and (ROOT / name).exists()]
PROGRAMS = {
    name: typer.main.get_command(module.app)
    for name, module in (("bionemo-scale", scale), ("perteval", perteval), ("bionemo-bench", bench))
}
SECTIONS = {"model": ModelConfig, "compute": ComputeConfig, "training": TrainingConfig, "tuning": TuningConfig}
FOREIGN = {"training.lr", "training.max_steps", "model.safetensors"}
"""What STATE's own settings are named, and what only looks like a setting."""
OTHERS = {"--help", "--dryrun", "--yes", "--to-yaml", "--factory", "--mpi", "--requeue", "--no-deps"}
OTHERS |= {"--short", "--only", "--trial", "--minutes"}
"""Options of other programs, and of `tests/faults/run.py`, that pages name."""
WRITTEN = ("cellsets/", "checkpoints/", "demo/", "profile/", "report/", "results/", "run/", "timed/", ".NAME.partial/")
"""Beginnings of paths that commands write, so that no such file is in the repository."""
UNFIT = {
    r"\bsessions?\b": "how the pages came to be is no part of them",
    r"\bissue #?\d+": "a page speaks of the project as it is, not of its history",
    r"\b(TODO|FIXME|XXX)\b": "a page is finished",
    r"\baims?\b": "a reader cannot know whose aims: say what was measured",
    r"transferred start": "its name is linear start",
}


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def blocks(text: str, *languages: str) -> list[str]:
    """Return the code blocks in one of the languages."""
    return [body for kind, body in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if kind in languages]


def prose(text: str) -> str:
    """Return the text without its code blocks."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and the repository's host make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {re.sub(r"[- ]+", "-", heading.strip()) for heading in kept}


def commands(text: str) -> list[list[str]]:
    """Return the words of every command line of a page that runs one of our programs, from the program's name on."""
    lines = [line for body in blocks(text, "bash") for line in body.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose(text))
    found = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        for place, word in enumerate(words):
            if word in PROGRAMS and place + 1 < len(words):
                ends = (i for i in range(place, len(words)) if words[i] in ("|", "&&", ";", ">", "..."))
                found.append(words[place : next(ends, len(words))])
    return found


def check(words: list[str]) -> None:
    """Fail where a command line has a command or an option that its program does not know."""
    program, name, *rest = words
    if name.isupper() or name.startswith("-"):
        return
    known = PROGRAMS[program].commands
    assert name in known, f"{' '.join(words)}: {program} has no command {name}, only {', '.join(known)}"
    options = {option for one in known[name].params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    for word in rest:
        option = word.partition("=")[0]
        if option.startswith("--") and len(option) > 2:
            assert option in options, f"{' '.join(words)}: {program} {name} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        there = Path(os.path.normpath(page.parent / file)) if file else page
        assert there.exists(), f"{target} leads nowhere"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_and_options_exist(page):
    for words in commands(page.read_text()):
        check(words)


@pytest.mark.parametrize("page", [p for p in PAGES if p.is_relative_to(ROOT / "docs") or "sub-packages" in p.parts])
def test_options_that_are_named_alone_exist(page):
    known = {
        option
        for program in PROGRAMS.values()
        for command in program.commands.values()
        for one in command.params
        for option in (*one.opts, *one.secondary_opts)
    }
    for option in re.findall(r"`(--[a-z][\w-]*)", prose(page.read_text())):
        assert option in known | OTHERS, f"no command has {option}"


def test_the_examples_of_the_help_exist():
    for program in PROGRAMS.values():
        for command in program.commands.values():
            for words in commands(command.epilog or ""):
                check(words)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_settings_exist(page):
    text = page.read_text()
    known = {section: {field.name for field in fields(kind)} for section, kind in SECTIONS.items()}
    given = re.findall(
        r"(?<![\w.])([a-z]+)\.(\w+)=", "\n".join([*blocks(text, "bash"), *re.findall(r"`[^`\n]+`", text)])
    )
    for section, name in [*given, *re.findall(r"`(model|compute|training|tuning)\.(\w+)`", text)]:
        if f"{section}.{name}" not in FOREIGN and section not in ("executor", "screen"):
            assert section in known, f"no section of settings is named {section} ({section}.{name})"
            assert name in known[section], f"no setting is named {section}.{name}"


def test_tables_of_settings_and_commands_are_what_the_code_says():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/reference_pages.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr.splitlines()[-1]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_files_that_are_named_are_there(page):
    text = page.read_text()
    named = re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|json|toml|sh|txt|md))`", text)
    for body in blocks(text, "bash"):
        named += re.findall(r"(?<![\w/$}\"'-])((?:recipes|experiments|docker)/[\w./-]+\.(?:py|sh|toml|txt)\b)", body)
        named += [f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m (experiments\.[\w.]+)", body)]
    for name in named:
        there = any(f"/{file}".endswith(f"/{name}") for file in TRACKED)
        assert there or name.startswith(WRITTEN), f"no file of the repository is named {name}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_unfit_words(page):
    text = re.sub(r"\]\([^)]*\)", "]", prose(page.read_text()))
    for pattern, why in UNFIT.items():
        found = re.search(pattern, text, re.IGNORECASE)
        assert found is None, f"{found[0]!r}: {why}"


def test_the_tables_of_real_screens_are_of_the_numbers_that_are_kept():
    kept = kept_means(json.loads((ROOT / "benchmarks/results/real-screens-cpu.json").read_text()))
    page, readme = ((ROOT / name).read_text() for name in ("docs/results/real_screens.md", "README.md"))
    plain = {line.replace("*", "") for line in readme.splitlines()}
    arms = arms_of(kept.index.unique("arm"))
    for group in kept.index.unique("group"):
        table = headline(kept.loc[group], arms)
        assert table in page
        shown = ("| PDCorr |", "| DEOver |", "| MSE |")
        assert {line for line in table.splitlines() if line.startswith(shown)} <= plain


@pytest.mark.slow
def test_the_commands_of_the_guide_run(tmp_path, environment):
    """Your own screen, from the split of the page to the report, then the prediction of what nobody has measured."""
    guide = {name: (ROOT / f"docs/guide/{name}.md").read_text() for name in ("your_screen", "predict")}
    (tmp_path / "split.toml").write_text(blocks(guide["your_screen"], "toml")[0])
    simulate(tmp_path / "made.h5ad", cells=1_500, genes=60, contexts=3, perturbations=4, progress=False)
    cells = ad.read_h5ad(tmp_path / "made.h5ad")
    lines = dict(zip(sorted(set(cells.obs["context"])), ("K562", "HepG2", "RPE1"), strict=True))
    genes = dict(
        zip(sorted(set(cells.obs["perturbation"]) - {"control"}), ("TP53", "JAK2", "STAT1", "MYC"), strict=True)
    )
    cells.obs["cell_line"] = [lines[context] for context in cells.obs["context"]]
    cells.obs["target"] = [genes.get(label, "non-targeting") for label in cells.obs["perturbation"]]
    cells.write_h5ad(tmp_path / "screen.h5ad")
    script = blocks(guide["your_screen"], "bash")[0] + blocks(guide["predict"], "bash")[0].splitlines()[1]
    short = script.replace("--out run\n", "--out run training.max_steps=10 training.warmup_steps=1\n")
    assert short != script
    done = subprocess.run(
        ["bash", "-euc", short], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "report/report.html").exists()
    (python,) = blocks((ROOT / "README.md").read_text(), "python")
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(ad.read_h5ad(tmp_path / "two.h5ad").obs["target"]) == {"JAK2", "STAT1"}
